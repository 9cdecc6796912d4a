"""Tables and the figure of generated stems."""

from pathlib import Path

from matplotlib.figure import Figure

from src import paths
from src.config import BEGINNINGS, SOLVER_STEPS, STEMS, STYLE_SPREAD
from src.figures import BLUE, ORANGE, WIDTH, save_themes
from src.files import load_json
from src.metric_tables import CLIP_METRICS, FLOW_LOSS, FRECHET, RECALL_OF_CLIPS, RECOGNISED, Metric
from src.report.tables import machine_line, table, training_values

CHARACTER_LABELS = {
    "level_db": ("level, dB re full scale", 1),
    "loudness_lufs": ("loudness, LUFS", 1),
    "centroid_hz": ("spectral centroid, Hz", 0),
    "onsets_per_second": ("onsets per second", 1),
    "modulation_db": ("modulation of the level, dB", 1),
    "repetition": ("repetition, 1 is a loop", 2),
}
SPACE_LABELS = {"features": "in the classifier's features", "log_mel_db": "in the log-mel spectrogram, dB"}


def template_values(run_paths: paths.FlowPaths) -> dict[str, str | int]:
    """The template's values for generated stems. Raises CheckpointError if a JSON file is missing or damaged."""
    metrics = load_json(run_paths.metrics)
    protocol, joints, best = metrics["protocol"], metrics["joints"], FLOW_LOSS.best(metrics["checkpoints"])
    values = dict(
        each=protocol["count"],
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
        recall=RECALL_OF_CLIPS.format(metrics["scores"]["generated"][RECALL_OF_CLIPS][0]),
        recall_training=RECALL_OF_CLIPS.format(metrics["scores"]["training"][RECALL_OF_CLIPS][0]),
        frechet_ratio=f"{metrics['scores']['generated'][FRECHET][0] / metrics['scores']['training'][FRECHET][0]:.1f}",
        frechet_griffin_lim=FRECHET.format(metrics["scores"]["real_through_griffin_lim"][FRECHET][0]),
        frechet_real=FRECHET.format(metrics["scores"]["real"][FRECHET][0]),
        best_epoch=best["epoch"],
        style_means=metrics["training"]["config"]["style_means"],
        style_deviations=metrics["training"]["config"]["style_deviations"],
        style_spread=f"{STYLE_SPREAD:g}",
        solver_steps=SOLVER_STEPS,
        beginnings=BEGINNINGS,
        loss=FLOW_LOSS.format(best[FLOW_LOSS]),
        closest=closest_distances(metrics),
        machine=machine_line(protocol["machine"]),
    )
    values |= training_values(metrics["training"])
    values |= {f"again_{name}": value for name, value in again_values(metrics).items()}
    return {f"flow_{name}": value for name, value in values.items()}


def again_values(metrics: dict) -> dict[str, str | int]:
    """The values of the second training. Raises CheckpointError if its JSON file is missing or damaged."""
    again = load_json(paths.FLOW_AGAIN)
    return training_values(again["training"]) | {
        "loss": FLOW_LOSS.format(FLOW_LOSS.best(again["checkpoints"])[FLOW_LOSS]),
        "scores": twice_table(metrics, again),
        "frechet": _mean_and_spread(FRECHET, again["scores"]["generated"]),
        "recall": _mean_and_spread(RECALL_OF_CLIPS, again["scores"]["generated"]),
    }


def closest_distances(metrics: dict) -> str:
    """The least distance of a clip of each stem from the training excerpts, in the log-mel spectrogram."""
    closest = metrics["nearest"]["closest"]
    return ", ".join(f"{found['distance_db']:.1f} ({stem})" for stem, found in closest.items())


def write_figures(run_paths: paths.FlowPaths) -> list[Path]:
    """Write the figure of the training. Returns its paths."""
    metrics = load_json(run_paths.metrics)
    return save_themes(run_paths.figures / "flow_training.png", lambda: loss_curves(metrics))


def score_table(metrics: dict) -> str:
    """Scores of generated clips and of two kinds of real excerpts: mean and standard deviation over seeds."""
    return _clip_score_table({key: metrics["scores"][key] for key in ("generated", "training", "real")})


def twice_table(metrics: dict, again: dict) -> str:
    """Scores of the clips of the published flow and of a second training of it."""
    return _clip_score_table(
        {"published": metrics["scores"]["generated"], "second training": again["scores"]["generated"]}
    )


def _clip_score_table(columns: dict[str, dict]) -> str:
    """A row for each metric of clips; each column holds the mean and the standard deviation of every metric."""
    rows = [
        [metric.label, *(_mean_and_spread(metric, scores) for scores in columns.values())] for metric in CLIP_METRICS
    ]
    return table(["", *columns], rows)


def _mean_and_spread(metric: Metric, scores: dict) -> str:
    return " ± ".join(map(metric.format, scores[metric]))


def stem_table(metrics: dict) -> str:
    """Share of the clips of each stem that is recognised."""
    labels = {name: name for name in ("generated", "training", "real")}
    labels["real_through_griffin_lim"] = "real, estimated phase"
    rows = [
        [label, *(f"{metrics['scores'][key][f'{RECOGNISED}_{stem}'][0]:.2f}" for stem in STEMS)]
        for key, label in labels.items()
    ]
    return table(["", *STEMS], rows)


def nearest_table(metrics: dict) -> str:
    """Distances to the nearest training excerpt, of generated clips, of real test excerpts, and of copies."""
    rows = []
    for space, label in SPACE_LABELS.items():
        for quantile, name in (("median", "median"), ("percentile_1", "1st percentile")):
            found = [metrics["nearest"][kind][space][quantile] for kind in ("generated", "real", "copies")]
            rows.append([f"{label}, {name}", *(f"{value:.2f}" for value in found), f"{found[0] / found[1]:.2f}"])
    return table(["distance to the nearest training excerpt", "generated", "real test", "copies", "ratio"], rows)


def character_table(metrics: dict) -> str:
    """Properties of generated clips of each stem, and of real test excerpts."""
    rows = []
    for key, (label, decimals) in CHARACTER_LABELS.items():
        for kind in ("generated", "real"):
            values = (metrics["character"][stem][kind][key] for stem in STEMS)
            rows.append([f"{label}: {kind}", *(f"{value:.{decimals}f}" for value in values)])
    return table(["", *STEMS], rows)


def minute_table(metrics: dict) -> str:
    """Faults, change of level, and recognition at both ends of 60-s clips."""
    labels = {
        "not_finite": ("clips not finite", "d"),
        "above_full_scale": ("clips above full scale", "d"),
        "level_change_db": ("level, last 10 s over first, dB", "+.1f"),
        "recognised_first": ("recognised, first 20 s", ".2f"),
        "recognised_last": ("recognised, last 20 s", ".2f"),
    }
    rows = [
        [label, *(format(metrics["minute"][stem][key], form) for stem in STEMS)]
        for key, (label, form) in labels.items()
    ]
    return table(["60-s clips", *STEMS], rows)


def variation_table(metrics: dict) -> str:
    """Distance of variations to their sources for each strength."""
    rows = [[f"{row['strength']:g}", f"{row['distance_db']:.1f}"] for row in metrics["variations"]]
    return table(["strength", "distance to the recording, dB"], rows)


def loss_curves(metrics: dict) -> Figure:
    """The flow-matching loss over epochs, in training and on the validation tracks."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    for rows, colour, style, label in (
        (metrics["training"]["losses"], BLUE, "-", "training"),
        (metrics["checkpoints"], ORANGE, "o-", "validation tracks"),
    ):
        axes.plot([row["epoch"] for row in rows], [row[FLOW_LOSS] for row in rows], style, color=colour, label=label)
    axes.set(xlabel="epoch", ylabel="flow-matching loss")
    axes.legend()
    return figure
