"""RESULTS.md and its figures, from the metrics JSON and saved samples alone."""

from pathlib import Path
from string import Template

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from src import checkpoints, paths

TEMPLATE = Path(__file__).with_name("results.md.template")

# Okabe and Ito's palette: told apart by colour-blind readers too.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
STYLE = {
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "lines.linewidth": 2,
    "lines.markersize": 6,
    "legend.frameon": False,
}

SCORES = (  # key in the JSON, name, better direction, decimals
    ("fid_mnist", "FID (mnist)", "lower", 3),
    ("kid_mnist", "KID (mnist)", "lower", 4),
    ("inception_score_mnist", "Inception Score (mnist)", "higher", 3),
    ("precision_mnist", "Precision (mnist)", "higher", 3),
    ("recall_mnist", "Recall (mnist)", "higher", 3),
    ("smallest_digit_share", "Share of the rarest digit", "as real", 3),
    ("largest_digit_share", "Share of the most frequent digit", "as real", 3),
    ("fid_inception", "FID (inception)", "lower", 2),
    ("kid_inception", "KID (inception)", "lower", 4),
    ("inception_score_inception", "Inception Score (inception)", "higher", 2),
)


def write(where: paths.ImagePaths = paths.IMAGE, page: Path = paths.RESULTS) -> list[Path]:
    """Write RESULTS.md and its figures; returns what was written. Raises CheckpointError where a JSON is missing."""
    text = render(where)  # first, since it fails where a file is missing
    metrics = checkpoints.load_json(where.metrics)
    figures = {
        "image_scores.png": score_curves(metrics),
        "image_losses.png": loss_curves(metrics["training"]["losses"]),
    }
    written = [where.figures / name for name in figures]
    for path, figure in zip(written, figures.values(), strict=True):
        checkpoints.write_atomically(path, lambda target, f=figure: f.savefig(target, format="png", dpi=110))
    pictures = {
        "image_samples.png": best_samples(where, best_epoch(metrics)),
        "image_progress.png": progress_strip(where, [row["epoch"] for row in metrics["checkpoints"]]),
    }
    for name, pixels in pictures.items():
        picture = Image.fromarray(pixels)
        checkpoints.write_atomically(where.figures / name, lambda target, p=picture: p.save(target, format="PNG"))
        written.append(where.figures / name)
    checkpoints.write_atomically(page, lambda target: target.write_text(text, encoding="utf-8", newline="\n"))
    return [*written, page]


def render(where: paths.ImagePaths = paths.IMAGE) -> str:
    """The text of RESULTS.md."""
    metrics = checkpoints.load_json(where.metrics)
    classifier = checkpoints.load_json(where.classifier.with_suffix(".json"))
    benchmark = checkpoints.load_json(where.benchmark)
    ablation = checkpoints.load_json(where.ablation)
    protocol, training, neighbours = metrics["protocol"], metrics["training"], metrics["neighbours"]
    not_measured = metrics["not_measured"].get("inception")
    inception_score = metrics["final"]["inception_score_mnist"]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        generated_count=f"{protocol['count']:,}",
        reference=protocol["reference"],
        seed_count=len(protocol["seeds"]),
        real=protocol["real"],
        scores=score_table(metrics),
        kid_real=f"{metrics['final']['kid_mnist']['real']:.4f}",
        inception_gap=f"{inception_score['real'] - inception_score['mean']:.2f}",
        classifier_accuracy=f"{classifier['accuracy']['test']:.2%}",
        inception=f"With InceptionV3: not measured ({not_measured})." if not_measured else "",
        distance_generated=f"{neighbours['median_distance_generated']:.1f}",
        distance_test=f"{neighbours['median_distance_test']:.1f}",
        neighbour_count=f"{neighbours['count']:,}",
        checkpoints=checkpoint_table(metrics),
        best_epoch=best_epoch(metrics),
        epochs=training["epochs"],
        training_minutes=f"{training['seconds'] / 60:.1f}",
        processor=training["machine"]["processor"],
        threads=training["machine"]["threads"],
        precision=training["machine"]["training_precision"],
        benchmark=benchmark_text(benchmark),
        ablation=ablation_text(ablation),
        speed=speed_text(benchmark),
        protocol=protocol_text(metrics),
    )


def best_epoch(metrics: dict) -> int:
    return min(metrics["checkpoints"], key=lambda row: row["fid_mnist"])["epoch"]


# --- tables ---


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    rule = [":--"] + ["--:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def score_table(metrics: dict) -> str:
    rows = []
    for key, name, better, decimals in SCORES:
        row = metrics["final"].get(key)
        if row is None:
            rows.append([name, better, "not measured", "not measured"])
        else:
            spread = f" ± {row['std']:.{decimals}f}" if row["std"] is not None else ""
            rows.append([name, better, f"{row['mean']:.{decimals}f}{spread}", f"{row['real']:.{decimals}f}"])
    return table(["", "better", "generated digits", "real digits"], rows)


def checkpoint_table(metrics: dict) -> str:
    rows = [
        [str(row["epoch"]), f"{row['training_seconds'] / 60:.1f}", f"{row['fid_mnist']:.3f}",
         f"{row['inception_score_mnist']:.3f}"]
        for row in metrics["checkpoints"]
    ]  # fmt: skip
    real = [f"{metrics['final'][key]['real']:.3f}" for key in ("fid_mnist", "inception_score_mnist")]
    rows.append(["real digits", "", *real])
    return table(["epoch", "minutes of training", "FID (mnist)", "Inception Score (mnist)"], rows)


def benchmark_text(benchmark: dict) -> str:
    protocol = benchmark["protocol"]
    rows = [
        [row["model"], f"{row['images_seen']:,}", f"{row['images_per_second']:.0f}", f"{row['fid_mnist']:.2f}",
         f"{row['inception_score_mnist']:.2f}"]
        for row in benchmark["training"]
    ]  # fmt: skip
    header = ["model", "images seen", "images/s", "FID (mnist)", "Inception Score (mnist)"]
    return (
        f"Each trained for {protocol['minutes']:g} minutes on the same machine, one after the other, and scored on "
        f"{protocol['images_scored']:,} images, the tutorial's resized to 28x28:\n\n{table(header, rows)}\n\n"
        f"The FID is {benchmark['fid_ratio']:.0f} times lower. Ours is stopped here before its learning rate decays; "
        "the full run above goes on."
    )


def ablation_text(ablation: dict) -> str:
    rows = [
        [row["variant"], f"{row['steps']:,}", f"{row['fid_mnist']:.2f}", f"{row['fid_mnist_no_average']:.2f}",
         f"{row['inception_score_mnist']:.2f}"]
        for row in ablation["rows"]
    ]  # fmt: skip
    header = ["variant", "steps", "FID (mnist)", "FID (mnist), no averaging", "Inception Score (mnist)"]
    return (
        f"Each variant differs from the default in what its name says, trained for {ablation['protocol']['minutes']:g} "
        f"minutes at a constant learning rate and was scored on the validation digits:\n\n{table(header, rows)}"
    )


def speed_text(benchmark: dict) -> str:
    inference, machine = benchmark["inference"], benchmark["protocol"]["machine"]
    return (
        f"One digit takes {inference['seconds_per_image_in_batches_of_64'] * 1000:.2f} ms in batches of 64, "
        f"{inference['seconds_per_image_alone'] * 1000:.2f} ms alone, from latent to pixels "
        f"({machine['processor']}, {machine['threads']} threads, float32)."
    )


def protocol_text(metrics: dict) -> str:
    protocol = metrics["protocol"]
    subsets, size = protocol["kid_subsets"]
    machine = protocol["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return "\n".join(
        [
            f"- Data: {protocol['data']}. Training on the first 50,000 of the official 60,000 training digits, choices "
            "on the other 10,000.",
            f"- Images: {protocol['count']:,} from the averaged generator, one random stream each, rounded to 8 bits; "
            f"seeds {', '.join(map(str, protocol['seeds']))}.",
            f"- FID: Fréchet distance in float64. KID: {subsets} subsets of {size}. Inception Score: "
            f"{protocol['splits']} splits. Precision and recall: {protocol['neighbours']} nearest neighbours.",
            f"- Machine: {machine['processor']}, {machine['threads']} threads, Python {machine['python']}, {packages}.",
        ]
    )


# --- figures ---


def score_curves(metrics: dict) -> Figure:
    """FID and Inception Score over epochs, with what real digits score."""
    rows = metrics["checkpoints"]
    epochs = [row["epoch"] for row in rows]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        panels = {"fid_mnist": (left, "FID (mnist)"), "inception_score_mnist": (right, "Inception Score (mnist)")}
        for key, (axes, name) in panels.items():
            axes.plot(epochs, [row[key] for row in rows], "o-", color=BLUE, label="generated")
            axes.axhline(metrics["final"][key]["real"], color=ORANGE, linestyle="--", label="real digits")
            axes.set(xlabel="epoch", ylabel=name)
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


def panels(pictures: dict[str, np.ndarray]) -> Figure:
    """Pictures, uint8 (height, width), side by side under their titles."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 10 / len(pictures) + 0.4), layout="constrained")
        for axes, (title, picture) in zip(figure.subplots(1, len(pictures)), pictures.items(), strict=True):
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axes.set_title(title)
            axes.set_axis_off()
    return figure


def best_samples(where: paths.ImagePaths, epoch: int) -> np.ndarray:
    """The saved grid of the published checkpoint: uint8 (height, width)."""
    return np.asarray(Image.open(where.grid(epoch)))


def progress_strip(where: paths.ImagePaths, epochs: list[int]) -> np.ndarray:
    """The first row of each checkpoint's grid, time running down: uint8 (height, width)."""
    grids = [np.asarray(Image.open(where.grid(epoch))) for epoch in epochs]
    return np.concatenate([grid[: len(grid) // GRID_ROWS] for grid in grids])


GRID_ROWS = 10  # of the sample grid that each checkpoint leaves
