"""Tables and figures of the image half."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from src import paths
from src.config import SAMPLE_GRID_SIDE
from src.errors import CheckpointError
from src.files import load_json, save_figure, save_picture
from src.metric_tables import BEST_GENERATOR, FID, IMAGE_METRICS, INCEPTION_SCORE, KID
from src.report.plotting import BLUE, DPI, GREY, ORANGE, STYLE, machine_line, table, training_values


def template_values(run_paths: paths.ImagePaths) -> dict[str, str | int]:
    """The template's values for digits. Raises CheckpointError if a JSON file is missing or damaged."""
    metrics = load_json(run_paths.metrics)
    classifier = load_json(run_paths.classifier.with_suffix(".json"))
    benchmark, ablation = load_json(run_paths.benchmark), load_json(run_paths.ablation)
    protocol, neighbours = metrics["protocol"], metrics["neighbours"]
    not_measured = metrics["not_measured"].get("inception")
    inception_score = metrics["final"][INCEPTION_SCORE]
    return dict(
        generated_count=f"{protocol['count']:,}",
        reference=protocol["reference"],
        seed_count=len(protocol["seeds"]),
        real=protocol["real"],
        scores=score_table(metrics),
        kid_real=KID.format(metrics["final"][KID]["real"]),
        inception_gap=f"{inception_score['real'] - inception_score['mean']:.2f}",
        classifier_accuracy=f"{classifier['accuracy']['test']:.2%}",
        inception=f"With InceptionV3: not measured ({not_measured})." if not_measured else "",
        distance_generated=f"{neighbours['median_distance_generated']:.1f}",
        distance_test=f"{neighbours['median_distance_test']:.1f}",
        neighbour_count=f"{neighbours['count']:,}",
        checkpoints=checkpoint_table(metrics),
        best_epoch=best_epoch(metrics),
        **{f"image_{name}": value for name, value in training_values(metrics["training"]).items()},
        benchmark=benchmark_text(benchmark),
        ablation=ablation_text(ablation),
        speed=speed_text(benchmark),
        protocol=protocol_text(metrics),
    )


def write_figures(run_paths: paths.ImagePaths) -> list[Path]:
    """Write the figures of digits. Returns their paths."""
    metrics = load_json(run_paths.metrics)
    epochs = [row["epoch"] for row in metrics["checkpoints"]]
    figures = {
        run_paths.figures / "image_scores.png": score_curves(metrics),
        run_paths.figures / "image_losses.png": loss_curves(metrics["training"]["losses"]),
    }
    pictures = {
        run_paths.figures / "image_samples.png": best_samples(run_paths, best_epoch(metrics)),
        run_paths.figures / "image_progress.png": progress_strip(run_paths, epochs),
    }
    for path, figure in figures.items():
        save_figure(path, figure, DPI)
    for path, pixels in pictures.items():
        save_picture(path, pixels)
    return [*figures, *pictures]


def best_epoch(metrics: dict) -> int:
    """Epoch of the published checkpoint."""
    return BEST_GENERATOR.best(metrics["checkpoints"])["epoch"]


# --- tables and paragraphs ---


def score_table(metrics: dict) -> str:
    """Every metric of generated digits, with its standard deviation, and the value of real digits."""
    rows = []
    for metric in IMAGE_METRICS:
        row = metrics["final"].get(metric)
        if row is None:
            rows.append([metric.label, metric.better, "not measured", "not measured"])
        else:
            spread = f" ± {metric.format(row['std'])}" if row["std"] is not None else ""
            rows.append([metric.label, metric.better, metric.format(row["mean"]) + spread, metric.format(row["real"])])
    return table(["", "better", "generated digits", "real digits"], rows)


def checkpoint_table(metrics: dict) -> str:
    """Scores of each checkpoint on the validation digits."""
    rows = [
        [str(row["epoch"]), f"{row['training_seconds'] / 60:.1f}", FID.format(row[FID]),
         INCEPTION_SCORE.format(row[INCEPTION_SCORE])]
        for row in metrics["checkpoints"]
    ]  # fmt: skip
    real = [metric.format(metrics["final"][metric]["real"]) for metric in (FID, INCEPTION_SCORE)]
    rows.append(["real digits", "", *real])
    return table(["epoch", "minutes of training", FID.label, INCEPTION_SCORE.label], rows)


def benchmark_text(benchmark: dict) -> str:
    """The comparison with the tutorial's DCGAN."""
    protocol = benchmark["protocol"]
    rows = [
        [row["model"], f"{row['images_seen']:,}", f"{row['images_per_second']:.0f}", f"{row[FID]:.2f}",
         f"{row[INCEPTION_SCORE]:.2f}"]
        for row in benchmark["training"]
    ]  # fmt: skip
    header = ["model", "images seen", "images/s", FID.label, INCEPTION_SCORE.label]
    return (
        f"Each trained for {protocol['minutes']:g} minutes on the same machine, one after the other, and scored on "
        f"{protocol['images_scored']:,} images, the tutorial's resized to 28x28:\n\n{table(header, rows)}\n\n"
        f"The FID is {benchmark['fid_ratio']:.0f} times lower. Ours is stopped here before its learning rate decays; "
        "the full run above goes on."
    )


def ablation_text(ablation: dict) -> str:
    """The ablation table with its protocol."""
    rows = [
        [row["variant"], f"{row['steps']:,}", f"{row[FID]:.2f}", f"{row[f'{FID}_no_average']:.2f}",
         f"{row[INCEPTION_SCORE]:.2f}"]
        for row in ablation["rows"]
    ]  # fmt: skip
    header = ["variant", "steps", FID.label, f"{FID.label}, no averaging", INCEPTION_SCORE.label]
    return (
        f"Each variant differs from the default in what its name says, trained for {ablation['protocol']['minutes']:g} "
        f"minutes at a constant learning rate and was scored on the validation digits:\n\n{table(header, rows)}"
    )


def speed_text(benchmark: dict) -> str:
    """The time to generate a digit."""
    inference, machine = benchmark["inference"], benchmark["protocol"]["machine"]
    return (
        f"One digit takes {inference['seconds_per_image_in_batches_of_64'] * 1000:.2f} ms in batches of 64, "
        f"{inference['seconds_per_image_alone'] * 1000:.2f} ms alone, from latent to pixels "
        f"({machine['processor']}, {machine['threads']} threads, float32)."
    )


def protocol_text(metrics: dict) -> str:
    """Definitions, counts, seeds and machine of the measurement."""
    protocol = metrics["protocol"]
    subsets, size = protocol["kid_subsets"]
    return "\n".join(
        [
            f"- Data: {protocol['data']}. Training on the first 50,000 of the official 60,000 training digits, choices "
            "on the other 10,000.",
            f"- Images: {protocol['count']:,} from the averaged generator, one random stream each, rounded to 8 bits; "
            f"seeds {', '.join(map(str, protocol['seeds']))}.",
            f"- FID: Fréchet distance in float64. KID: {subsets} subsets of {size}. Inception Score: "
            f"{protocol['splits']} splits. Precision and recall: {protocol['neighbours']} nearest neighbours.",
            machine_line(protocol["machine"]),
        ]
    )


# --- figures ---


def score_curves(metrics: dict) -> Figure:
    """FID and Inception Score over epochs, with the values of real digits."""
    rows = metrics["checkpoints"]
    epochs = [row["epoch"] for row in rows]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for metric, axes in ((FID, left), (INCEPTION_SCORE, right)):
            axes.plot(epochs, [row[metric] for row in rows], "o-", color=BLUE, label="generated")
            axes.axhline(metrics["final"][metric]["real"], color=ORANGE, linestyle="--", label="real digits")
            axes.set(xlabel="epoch", ylabel=metric.label)
            axes.legend()
        left.set_yscale("log")
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.yaxis.set_major_formatter("{x:g}")
        left.yaxis.set_minor_formatter(NullFormatter())
    return figure


def loss_curves(losses: list[dict]) -> Figure:
    """Mean losses of each epoch."""
    epochs = [row["epoch"] for row in losses]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.plot(epochs, [row["discriminator_loss"] for row in losses], color=BLUE, label="discriminator")
        axes.plot(epochs, [row["generator_loss"] for row in losses], color=ORANGE, linestyle="--", label="generator")
        axes.axhline(2 * np.log(2), color=GREY, linewidth=1, linestyle=":", label="discriminator that cannot tell")
        axes.set(xlabel="epoch", ylabel="loss (nats)")
        axes.legend()
    return figure


def best_samples(run_paths: paths.ImagePaths, epoch: int) -> np.ndarray:
    """The saved grid of the published checkpoint: uint8 (height, width)."""
    return _read_grid(run_paths.grid(epoch))


def progress_strip(run_paths: paths.ImagePaths, epochs: list[int]) -> np.ndarray:
    """The first row of each checkpoint's grid, one below the other: uint8 (height, width)."""
    grids = [_read_grid(run_paths.grid(epoch)) for epoch in epochs]
    return np.concatenate([grid[: len(grid) // SAMPLE_GRID_SIDE] for grid in grids])


def _read_grid(path: Path) -> np.ndarray:
    try:
        return np.asarray(Image.open(path))
    except OSError as error:
        raise CheckpointError(f"{paths.relative(path)} is missing or damaged: restore it with git checkout") from error
