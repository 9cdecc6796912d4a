"""Tables and figures of the audio half."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from src import paths
from src.config import STEMS
from src.figures import BLUE, GREEN, GREY, ORANGE, PINK, WIDTH, save_themes
from src.files import load_json
from src.metric_tables import (
    BD_RATE,
    BEST_STEM_VAE,
    MEL_ERROR,
    MEL_RATE,
    MSE,
    NEGATIVE_ELBO,
    OPINION,
    RATE,
    RATE_MEAN,
    SDR,
    SDR_GLOBAL,
    SI_SDR,
    SNR,
    STFT_DISTANCE,
    Metric,
)
from src.report.tables import machine_line, table, training_values

FINAL_METRICS = (
    SDR, SDR_GLOBAL, SI_SDR, SNR, RATE, MEL_RATE, MSE, STFT_DISTANCE, MEL_ERROR, OPINION,
)  # fmt: skip
CODER_LABELS = {
    "model": "**the model**",
    "model_filled": "the model, with fill",
    "closed_form": "closed form, same rate",
    "griffin_lim_decoded_mel": "Griffin-Lim from the decoded mel",
    "griffin_lim_true_mel": "Griffin-Lim from the true mel",
    "oracle_phase": "decoded mel, true phase",
    "low_pass": "low-pass, exact",
    "silence": "silence",
}
STEM_COLOURS = dict(zip(STEMS, (BLUE, ORANGE, GREEN, PINK), strict=True))


def template_values(run_paths: paths.AudioPaths, claims: dict) -> dict[str, str | int]:
    """The template's values for stems. `claims`: the figures of the original project. Raises CheckpointError if a JSON
    file is missing or damaged."""
    metrics = load_json(run_paths.metrics)
    classifier = load_json(run_paths.classifier.with_suffix(".json"))
    protocol, final = metrics["protocol"], metrics["final"]
    return dict(
        audio_tracks=protocol["tracks"],
        audio_final=final_table(metrics),
        audio_all=all_metrics_table(metrics),
        audio_skipped=sum(final[stem]["windows_skipped"] for stem in STEMS),
        audio_windows=sum(final[stem]["windows"] for stem in STEMS),
        **{
            f"audio_bass_opinion{of}": interval(OPINION, metrics["baselines"]["bass"][row])
            for of, row in (("", "model"), ("_mel", "griffin_lim_decoded_mel"))
        },
        audio_bd_rate=bd_rate_table(metrics),
        audio_sdr_baselines=baseline_table(metrics, SDR_GLOBAL),
        audio_opinion_baselines=baseline_table(metrics, OPINION),
        audio_fill=f"{protocol['fill']:g}",
        audio_opinions=perceptual_table(metrics, OPINION),
        audio_opinion_sdrs=perceptual_table(metrics, SDR),
        audio_opinion_rates=perceptual_table(metrics, RATE),
        audio_resampled=resampled_table(metrics),
        audio_classifier=f"{classifier['accuracy']['test']:.1%}",
        audio_checkpoints=checkpoint_table(metrics),
        audio_best_epoch=best_epoch(metrics),
        **{f"audio_{name}": value for name, value in training_values(metrics["training"]).items()},
        audio_speed=speed_table(metrics),
        audio_claims=claims_table(metrics, claims),
        audio_operating=", ".join(f"{stem} {value:g}" for stem, value in protocol["operating_sdr_db"].items()),
        audio_intervals=protocol["intervals"],
        audio_aggregation=protocol["aggregation"],
        audio_machine=machine_line(protocol["machine"]),
    )


def write_figures(run_paths: paths.AudioPaths) -> list[Path]:
    """Write the figures of stems. Returns their paths."""
    metrics = load_json(run_paths.metrics)
    figures = {
        "rate_distortion": lambda: rate_distortion(metrics),
        "training": lambda: objective_curves(metrics["training"]["losses"]),
        "checkpoints": lambda: checkpoint_curves(metrics["checkpoints"]),
    }
    written = [save_themes(run_paths.figures / f"{name}.png", draw) for name, draw in figures.items()]
    return [path for both in written for path in both]


def best_epoch(metrics: dict) -> int:
    """Epoch of the published checkpoint."""
    return BEST_STEM_VAE.best(metrics["checkpoints"])["epoch"]


# --- tables ---


def final_table(metrics: dict) -> str:
    """SDR and rate at the operating point with their intervals, BD-rate and opinion score."""
    final = metrics["final"]
    rows = []
    for metric in (SDR, RATE):
        rows.append([metric.heading, *(metric.format(final[stem][metric]) for stem in STEMS)])
        rows.append(["95 % interval", *(interval(metric, final[stem]) for stem in STEMS)])
    saved = (metrics["bd_rate"][stem]["median"] for stem in STEMS)
    rows.append([BD_RATE.heading, *(BD_RATE.format(value) for value in saved)])
    rows.append([OPINION.heading, *(opinion(final[stem]) for stem in STEMS)])
    return table(["", *STEMS], rows)


def interval(metric: Metric, row: dict) -> str:
    """The 95 % interval of a row's metric; "undefined" for fewer than two tracks."""
    bounds = row["interval"].get(metric)
    return "undefined" if bounds is None else " to ".join(map(metric.format, bounds))


def all_metrics_table(metrics: dict) -> str:
    """Every metric at the operating point, with its interval; and the mean rate."""
    final = metrics["final"]
    rows = []
    for metric in FINAL_METRICS:
        if metric in final[STEMS[0]]:
            rows.append([metric.heading, *(metric.format(final[stem][metric]) for stem in STEMS)])
            rows.append(["95 % interval", *(interval(metric, final[stem]) for stem in STEMS)])
    rows.append([RATE_MEAN.heading, *(RATE_MEAN.format(final[stem][RATE_MEAN]) for stem in STEMS)])
    rows.append(["tracks where the stem plays", *(str(final[stem]["tracks"]) for stem in STEMS)])
    return table(["", *STEMS], rows)


def bd_rate_table(metrics: dict) -> str:
    """BD-rate of the model against the closed form, with its interval and the number of tracks."""
    rows = metrics["bd_rate"]

    def bounds(row: dict) -> str:
        return "undefined" if row["interval"] is None else " to ".join(map(BD_RATE.format, row["interval"]))

    return table(
        ["", *STEMS],
        [
            [BD_RATE.heading, *(BD_RATE.format(rows[stem]["median"]) for stem in STEMS)],
            ["95 % interval", *(bounds(rows[stem]) for stem in STEMS)],
            ["tracks", *(str(rows[stem]["tracks"]) for stem in STEMS)],
            ["tracks left out", *(str(rows[stem]["left_out"]) for stem in STEMS)],
        ],
    )


def opinion(row: dict) -> str:
    """The opinion score of a row, or "not measured"."""
    return OPINION.format(row[OPINION]) if OPINION in row else "not measured"


def baseline_table(metrics: dict, metric: Metric) -> str:
    """One metric of the model, the closed form and the baselines."""
    rows = []
    for key, label in CODER_LABELS.items():
        cells = [metrics["baselines"][stem][key] for stem in STEMS]
        if all(metric in cell for cell in cells):
            rows.append([label, *(metric.format(cell[metric]) for cell in cells)])
    return table([metric.heading, *STEMS], rows)


def perceptual_table(metrics: dict, metric: Metric) -> str:
    """One metric at each SDR asked for, with and without fill."""
    rows = []
    for position, first in enumerate(metrics["perceptual"][STEMS[0]]):
        cells = (metrics["perceptual"][stem][position] for stem in STEMS)
        label = f"{first['target_sdr_db']:g} dB, fill {first['fill']:g}"
        rows.append([label, *(metric.format(cell[metric]) if metric in cell else "not measured" for cell in cells)])
    return table([metric.heading, *STEMS], rows)


def resampled_table(metrics: dict) -> str:
    """Scores of tracks at 44.1 kHz."""
    labels = {
        SDR: (f"{SDR.label} at 44.1 kHz, dB", SDR),
        RATE: ("rate, kbit/s", RATE),
        f"resampling_alone_{SDR}": ("SDR of resampling, dB", SDR),
    }
    rows = [
        [label, *(metric.format(metrics["resampled"][stem][key]) for stem in STEMS)]
        for key, (label, metric) in labels.items()
    ]
    return table(["", *STEMS], rows)


def checkpoint_table(metrics: dict) -> str:
    """Training time and negative ELBO of each checkpoint on the validation tracks."""
    rows = [
        [str(row["epoch"]), f"{row['training_seconds'] / 60:.1f}", NEGATIVE_ELBO.format(row[NEGATIVE_ELBO])]
        for row in metrics["checkpoints"]
    ]
    return table(["epoch", "minutes of training", NEGATIVE_ELBO.heading], rows)


def speed_table(metrics: dict) -> str:
    """Seconds of sound of each stem that are reconstructed in one second."""
    return table(["", *STEMS], [["s of sound per s", *(f"{metrics['speed'][stem]:.0f}" for stem in STEMS)]])


def claims_table(metrics: dict, claims: dict) -> str:
    """The original project's figures, and the lowest and the highest of the four stems' medians."""
    rows = []
    for metric, key in ((SDR, "sdr_db"), (SNR, "snr_db"), (MSE, "mse")):
        values = [metrics["final"][stem][metric] for stem in STEMS]
        saved = claims["in_its_saved_files"].get(key)
        rows.append(
            [
                metric.heading,
                f"{claims['claimed'][key] * metric.scale:g}",
                "-" if saved is None else f"{saved * metric.scale:g}",
                metric.format(min(values)),
                metric.format(max(values)),
            ]
        )
    rates = [_rate_at(metrics["curve"][stem], claims["claimed"]["snr_db"]) for stem in STEMS]
    if None not in rates:
        bounds = (RATE.format(value) for value in (min(rates), max(rates)))
        claimed_snr = f"{claims['claimed']['snr_db']:g}"
        rows.append([f"rate at an SNR of {claimed_snr} dB, kbit/s", "-", "-", *bounds])
    return table(["", "claim", "its files", "ours, from", "to"], rows)


def _rate_at(curve: list[dict], snr_db: float) -> float | None:
    """The rate of a curve at an SNR, by linear interpolation between its points; None beyond them."""
    ratios, rates = ([row[metric] for row in curve] for metric in (SNR, RATE))
    return float(np.interp(snr_db, ratios, rates)) if ratios[0] <= snr_db <= ratios[-1] else None


# --- figures ---


def rate_distortion(metrics: dict) -> Figure:
    """SDR over rate for each stem, of the model and of the same model with the learned part of `z_fine` off."""
    figure = Figure(figsize=(WIDTH, 4.8), layout="constrained")
    axes = figure.subplots()
    for stem, colour in STEM_COLOURS.items():
        for key, style in (("curve", "o-"), ("closed_form", "s--")):
            rates, ratios = ([row[metric] for row in metrics[key][stem]] for metric in (RATE, SDR))
            axes.plot(rates, ratios, style, color=colour, markersize=5, linewidth=1.8)
        final = metrics["final"][stem]
        axes.plot(final[RATE], final[SDR], "*", color=colour, markersize=15)
    axes.set(xlabel="rate of the latents (kbit/s)", ylabel="SDR (dB)", xscale="log")
    axes.set_xticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
    axes.minorticks_off()
    handles = [Line2D([], [], color=colour, label=stem) for stem, colour in STEM_COLOURS.items()]
    handles += [
        Line2D([], [], color=GREY, marker="o", label="the model"),
        Line2D([], [], color=GREY, marker="s", linestyle="--", label="learned part of z_fine off"),
        Line2D([], [], color=GREY, marker="*", markersize=13, linestyle="", label="published setting"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def objective_curves(losses: list[dict]) -> Figure:
    """The terms of the training objective over epochs, for each stem."""
    terms = {
        "fine_rate": ("rate of z_fine", BLUE, "-"),
        "distortion": ("distortion / 2D", ORANGE, "--"),
        "mel_rate": ("rate of z_mel", GREEN, "-."),
        "mel_likelihood": ("error of the mel, weighted", GREY, ":"),
    }
    epochs = [row["epoch"] for row in losses]
    figure = Figure(figsize=(WIDTH, 9), layout="constrained")
    panels = figure.subplots(4, 1, sharex=True)
    for axes, stem in zip(panels, STEMS, strict=True):
        for key, (label, colour, style) in terms.items():
            axes.plot(epochs, [row[stem][key] for row in losses], style, color=colour, label=label)
        axes.set(title=stem, ylabel="kbit/s", ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    panels[-1].set_xlabel("epoch")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def checkpoint_curves(rows: list[dict]) -> Figure:
    """Negative ELBO, and error of the decoded mel, of each checkpoint on the validation tracks."""
    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(WIDTH, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    top.plot(epochs, [row[NEGATIVE_ELBO] for row in rows], "o-", color=GREY)
    top.set(ylabel=f"{NEGATIVE_ELBO.label} ({NEGATIVE_ELBO.unit})")
    for (stem, colour), style in zip(STEM_COLOURS.items(), ("o-", "s--", "^-.", "d:"), strict=True):
        bottom.plot(epochs, [row[stem][MEL_ERROR] for row in rows], style, color=colour, label=stem)
    bottom.set(xlabel="epoch", ylabel="error of the decoded mel (dB)", ylim=(0, None))
    bottom.set_xticks(epochs)
    bottom.legend(ncols=2)
    return figure
