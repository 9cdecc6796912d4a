"""Tables and the figure of generated stems."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from src import paths
from src.config import STEMS
from src.files import load_json, save_figure
from src.metric_tables import CLIP_METRICS, FLOW_LOSS, RECOGNISED
from src.report.plotting import BLUE, DPI, ORANGE, STYLE, machine_line, table, training_values

ROW_LABELS = {
    "generated": "**generated**",
    "training": "real excerpts of the training tracks: a perfect copy of them",
    "real_through_griffin_lim": "real excerpts of the other test tracks, through Griffin-Lim",
    "real": "real excerpts of the other test tracks",
}
CHARACTER_LABELS = {
    "level_db": ("level, dB re full scale", 1),
    "loudness_lufs": ("loudness, LUFS (ITU-R BS.1770)", 1),
    "centroid_hz": ("spectral centroid, Hz", 0),
    "onsets_per_second": ("onsets per second", 1),
    "modulation_db": ("modulation of the level, dB", 1),
    "repetition": ("repetition, 1 is a loop", 2),
}
SPACE_LABELS = {"features": "in the classifier's features", "log_mel_db": "in the log-mel spectrogram, dB"}


def template_values(run_paths: paths.FlowPaths) -> dict[str, str | int]:
    """The template's values for generated stems. Raises CheckpointError if a JSON file is missing or damaged."""
    metrics = load_json(run_paths.metrics)
    protocol, joints = metrics["protocol"], metrics["joints"]
    values = dict(
        count=protocol["count"] * len(STEMS),
        seconds=f"{protocol['seconds']:g}",
        seeds=len(protocol["seeds"]),
        scores=score_table(metrics),
        stems=stem_table(metrics),
        nearest=nearest_table(metrics),
        character=character_table(metrics),
        minute=minute_table(metrics),
        minute_clips=protocol["minutes"],
        variations=variation_table(metrics),
        joint_level=f"{joints['continued']['level_db']:.1f}",
        joint_spectrum=f"{joints['continued']['spectrum_db']:.1f}",
        uncut_level=f"{joints['uncut']['level_db']:.1f}",
        uncut_spectrum=f"{joints['uncut']['spectrum_db']:.1f}",
        speed=f"{metrics['speed']:.0f}",
        best_epoch=FLOW_LOSS.best(metrics["checkpoints"])["epoch"],
        machine=machine_line(protocol["machine"]),
    )
    values |= training_values(metrics["training"])
    return {f"flow_{name}": value for name, value in values.items()}


def write_figures(run_paths: paths.FlowPaths) -> list[Path]:
    """Write the figure of the training. Returns its path."""
    path = run_paths.figures / "flow_training.png"
    save_figure(path, loss_curves(load_json(run_paths.metrics)), DPI)
    return [path]


def score_table(metrics: dict) -> str:
    """Scores of generated clips and of three kinds of real excerpts: mean and standard deviation over seeds."""
    rows = []
    for key, label in ROW_LABELS.items():
        cells = []
        for metric in CLIP_METRICS:
            mean, deviation = metrics["scores"][key][metric]
            cells.append(f"{metric.format(mean)} ± {metric.format(deviation)}")
        rows.append([label, *cells])
    return table(["", *(metric.label for metric in CLIP_METRICS)], rows)


def stem_table(metrics: dict) -> str:
    """Share of the clips of each stem that is recognised."""
    rows = [
        [ROW_LABELS[key], *(f"{metrics['scores'][key][f'{RECOGNISED}_{stem}'][0]:.1%}" for stem in STEMS)]
        for key in ("generated", "real_through_griffin_lim")
    ]
    return table([RECOGNISED.label, *STEMS], rows)


def nearest_table(metrics: dict) -> str:
    """Distances to the nearest training excerpt, of generated clips and of real test excerpts."""
    rows = []
    for space, label in SPACE_LABELS.items():
        for quantile, name in (("median", "median"), ("percentile_1", "1st percentile")):
            generated, real = (metrics["nearest"][kind][space][quantile] for kind in ("generated", "real"))
            rows.append([f"{label}, {name}", f"{generated:.2f}", f"{real:.2f}", f"{generated / real:.2f}"])
    return table(["distance to the nearest training excerpt", "generated", "real test excerpts", "ratio"], rows)


def character_table(metrics: dict) -> str:
    """Properties of generated clips of each stem; behind the stroke those of real test excerpts."""
    rows = []
    for key, (label, decimals) in CHARACTER_LABELS.items():
        pairs = [[metrics["character"][stem][kind][key] for kind in ("generated", "real")] for stem in STEMS]
        rows.append([label, *(f"{generated:.{decimals}f} / {real:.{decimals}f}" for generated, real in pairs)])
    return table(["generated / real", *STEMS], rows)


def minute_table(metrics: dict) -> str:
    """Faults, change of level, and recognition at both ends of 60-s clips."""
    labels = {
        "not_finite": ("clips with a sample that is not finite", "d"),
        "above_full_scale": ("clips with a sample above full scale", "d"),
        "level_change_db": ("level of the last 10 s over the first 10 s, dB, median", "+.1f"),
        "recognised_first": ("recognised in the first 20 s", ".1%"),
        "recognised_last": ("recognised in the last 20 s", ".1%"),
    }
    rows = [
        [label, *(format(metrics["minute"][stem][key], form) for stem in STEMS)]
        for key, (label, form) in labels.items()
    ]
    return table(["60-s clips", *STEMS], rows)


def variation_table(metrics: dict) -> str:
    """Distance of variations to their sources for each strength."""
    rows = metrics["variations"]
    header = ["strength", *(f"{row['strength']:g}" for row in rows)]
    return table(header, [["distance to the source, dB", *(f"{row['distance_db']:.1f}" for row in rows)]])


def loss_curves(metrics: dict) -> Figure:
    """The flow-matching loss over epochs, in training and on the validation tracks."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes = figure.subplots()
        for rows, colour, style, label in (
            (metrics["training"]["losses"], BLUE, "-", "training"),
            (metrics["checkpoints"], ORANGE, "o-", "validation tracks"),
        ):
            axes.plot(
                [row["epoch"] for row in rows], [row[FLOW_LOSS] for row in rows], style, color=colour, label=label
            )
        axes.set(xlabel="epoch", ylabel="flow-matching loss")
        axes.legend()
    return figure
