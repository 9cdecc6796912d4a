"""Tables and figures of the image half."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from src import paths
from src.config import EQUAL_IMAGES, FID_REACHED, FULL_TRAINING_DIGITS, INK, SAMPLE_GRID_SIDE
from src.errors import CheckpointError
from src.figures import BLUE, GREY, ORANGE, WIDTH, save_themes
from src.files import load_json, save_picture
from src.metric_tables import (
    BEST_GENERATOR,
    CLASSIFICATION_ACCURACY,
    DIGIT_ACCURACY,
    FID,
    IMAGE_METRICS,
    INCEPTION_SCORE,
    KID,
    PRECISION,
    RECALL,
    SEVERAL_PARTS,
    Metric,
)
from src.report.tables import machine_line, table, training_values

ARROWS = {"lower": "↓", "higher": "↑", "as real": "≈"}  # which value is better
MAIN_METRICS = (FID, INCEPTION_SCORE, PRECISION, RECALL, DIGIT_ACCURACY, CLASSIFICATION_ACCURACY)


def template_values(run_paths: paths.ImagePaths) -> dict[str, str | int]:
    """The template's values for digits. Raises CheckpointError if a JSON file is missing or damaged."""
    metrics = load_json(run_paths.metrics)
    classifier = load_json(run_paths.classifier.with_suffix(".json"))
    protocol, neighbours = metrics["protocol"], metrics["neighbours"]
    not_measured = metrics["not_measured"].get("inception")
    return dict(
        generated_count=f"{protocol['count']:,}",
        reference=protocol["reference"],
        seed_count=len(protocol["seeds"]),
        real=protocol["real"],
        scores=score_table(metrics, MAIN_METRICS),
        other_scores=score_table(metrics, [metric for metric in IMAGE_METRICS if metric not in MAIN_METRICS]),
        unconditional=unconditional_table(metrics),
        recall=RECALL.format(metrics["final"][RECALL]["mean"]),
        recall_real=RECALL.format(metrics["final"][RECALL]["real"]),
        **_fids(metrics["fid_references"]),
        classifier_seeds=protocol["classifier_seeds"],
        **_faults(metrics["final"]),
        kid_real=KID.format(metrics["final"][KID]["real"]),
        classifier_accuracy=f"{classifier['accuracy']['test']:.2%}",
        inception=f"With InceptionV3: not measured ({not_measured})." if not_measured else "",
        references=reference_table(metrics),
        **{f"distance_{of}": f"{neighbours[f'median_distance_{of}']:.1f}" for of in ("generated", "test")},
        **{f"distance_{of}_1": f"{neighbours[f'percentile_1_distance_{of}']:.1f}" for of in ("generated", "test")},
        neighbour_count=f"{neighbours['count']:,}",
        checkpoints=checkpoint_table(metrics),
        best_epoch=best_epoch(metrics),
        **{f"image_{name}": value for name, value in training_values(metrics["training"]).items()},
        benchmark=_if_measured(run_paths.benchmark, benchmark_text, "bench"),
        ablation=_if_measured(run_paths.ablation, ablation_text, "ablate"),
        ablation_scores=_if_measured(run_paths.ablation, ablation_scores, "ablate"),
        speed=_if_measured(run_paths.benchmark, partial(speed_text, epochs=metrics["training"]["epochs"]), "bench"),
        protocol=protocol_text(metrics),
        image_latent_std=f"{protocol['latent_std']:g}",
        image_machine=machine_line(protocol["machine"]),
        benchmark_command=_if_measured(run_paths.benchmark, _benchmark_command, "bench"),
        benchmark_machine=_if_measured(run_paths.benchmark, _machine, "bench"),
        ablation_machine=_if_measured(run_paths.ablation, _machine, "ablate"),
    )


def _faults(final: dict) -> dict[str, str | int]:
    """The shares of digits in several parts and of misread digits, generated and real."""
    shares: dict[str, str | int] = {"ink": INK}
    for suffix, of in (("", "mean"), ("_real", "real")):
        shares[f"several_parts{suffix}"] = f"{final[SEVERAL_PARTS][of]:.1%}"
        shares[f"misread{suffix}"] = f"{1 - final[DIGIT_ACCURACY][of]:.2%}"
    return shares


def _fids(references: dict) -> dict[str, str]:
    """The FIDs that the text states: `fid_SET_AGAINST`, with their standard deviations over sets."""
    pairs = (("generated", "validation"), ("random_training", "validation"), ("random_training", "test"))
    return {f"fid_{name}_{of}": mean_and_deviation(references[name][of]) for name, of in pairs}


def _if_measured(path: Path, text: Callable[[dict], str], command: str) -> str:
    return text(load_json(path)) if path.is_file() else f"Not measured yet: `python -m src image {command}`."


def _benchmark_command(benchmark: dict) -> str:
    return f"`python -m src image bench --minutes {benchmark['protocol']['minutes']:g} --overwrite`"


def _machine(measured: dict) -> str:
    return machine_line(measured["protocol"]["machine"])


def write_figures(run_paths: paths.ImagePaths) -> list[Path]:
    """Write the figures of digits. Returns their paths."""
    metrics = load_json(run_paths.metrics)
    written = save_themes(run_paths.figures / "image_scores.png", lambda: score_curves(metrics))
    written += save_themes(run_paths.figures / "image_losses.png", lambda: loss_curves(metrics["training"]["losses"]))
    samples, progress = (run_paths.figures / f"image_{name}.png" for name in ("samples", "progress"))
    save_picture(samples, saved_grid(run_paths, best_epoch(metrics)))
    save_picture(progress, progress_strip(run_paths, metrics["checkpoints"]))
    return [*written, samples, progress]


def best_epoch(metrics: dict) -> int:
    """Epoch of the published checkpoint."""
    return BEST_GENERATOR.best(metrics["checkpoints"])["epoch"]


# --- tables and paragraphs ---


def score_table(metrics: dict, chosen: Sequence[Metric] = IMAGE_METRICS) -> str:
    """The chosen metrics of generated digits, with their standard deviations, and of real digits."""
    rows = []
    for metric in chosen:
        if row := metrics["final"].get(metric):
            label = f"{metric.label} {ARROWS[metric.better]}"
            rows.append([label, _with_deviation(metric, row), metric.format(row["real"])])
    return table(["", "generated digits", "real digits"], rows)


def unconditional_table(metrics: dict) -> str:
    """The metrics of the unconditional generator, beside those of the conditional one."""
    final, others = metrics["final"], metrics["unconditional"]
    rows = [
        [metric.label, _with_deviation(metric, others[metric]), _with_deviation(metric, final[metric])]
        for metric in IMAGE_METRICS
        if metric in others and metric in final
    ]
    return table(["", "without labels", "with labels"], rows)


def _with_deviation(metric: Metric, row: dict) -> str:
    """Mean and standard deviation of a metric; the mean alone if there is one seed."""
    deviation = "" if row["std"] is None else f" ± {metric.format(row['std'])}"
    return metric.format(row["mean"]) + deviation


def reference_table(metrics: dict) -> str:
    """FID of real and of generated digits, each against the test and the validation digits."""
    references = metrics["fid_references"]
    names = {
        "random_training": "random training digits",
        "validation": "validation digits",
        "generated": "generated digits, as frequent as in training",
        "generated_equally": "the same, all ten digits equally frequent",
    }
    rows = [
        [label, *(mean_and_deviation(references[name].get(of, [])) for of in ("test", "validation"))]
        for name, label in names.items()
        if name in references
    ]
    return table([FID.label, "against test digits", "against validation digits"], rows)


def mean_and_deviation(fids: list[float]) -> str:
    """Mean and standard deviation of FIDs; the mean alone if there is one, "-" if there is none."""
    if not fids:
        return "-"
    return _with_deviation(FID, {"mean": mean(fids), "std": stdev(fids) if len(fids) > 1 else None})


def checkpoint_table(metrics: dict) -> str:
    """Scores of each checkpoint on the validation digits."""
    rows = [
        [str(row["epoch"]), f"{row['training_seconds'] / 60:.1f}", FID.format(row[FID]),
         INCEPTION_SCORE.format(row[INCEPTION_SCORE])]
        for row in metrics["checkpoints"]
    ]  # fmt: skip
    rows.append(["random training digits", "", FID.format(_fid_of_training_digits(metrics)), ""])
    return table(["epoch", "minutes of training", FID.label, INCEPTION_SCORE.label], rows)


def _fid_of_training_digits(metrics: dict) -> float:
    """FID of random training digits against the validation digits, mean over the sets."""
    return mean(metrics["fid_references"]["random_training"]["validation"])


def benchmark_text(benchmark: dict) -> str:
    """The comparison of three DCGANs."""
    protocol, rows, reached = benchmark["protocol"], [], []
    for row in benchmark["training"]:
        scores = row["scores"]
        equal = next((score for score in scores if score["images_seen"] >= EQUAL_IMAGES), None)
        images_per_second = scores[-1]["images_seen"] / scores[-1]["seconds"]
        fids = (f"{equal[FID]:.2f}" if equal else "-", f"{scores[-1][FID]:.2f}")
        rows.append([row["model"], f"{images_per_second:.0f}", *fids])
        reached.append(f"{row['model']} {_minutes_to_reach(scores, FID_REACHED)}")
    header = ["model", "images/s", f"FID after {EQUAL_IMAGES:,} images", f"FID after {protocol['minutes']:g} min"]
    return (
        f"Each trained for {protocol['minutes']:g} minutes on the same machine, one after the other, at a constant "
        "learning rate, and was scored on the validation digits every two minutes and after "
        f"{EQUAL_IMAGES:,} images, by {protocol['images_scored']:,} generated images; scoring time is not counted. "
        f"-: not reached.\n\n{table(header, rows)}\n\nMinutes to an FID of {FID_REACHED:g}: {'; '.join(reached)}."
    )


def _minutes_to_reach(scores: list[dict], fid: float) -> str:
    seconds = next((score["seconds"] for score in scores if score[FID] <= fid), None)
    return f"at most {seconds / 60:.1f}" if seconds is not None else "not reached"


def ablation_text(ablation: dict) -> str:
    """The ablation table with its protocol, and the training images to FID 1 with and without labels."""
    rows = []
    for row in ablation["rows"]:
        last = [run["scores"][-1][FID] for run in row["runs"]]
        no_average = [run[f"{FID}_no_average"] for run in row["runs"]]
        rows.append([row["variant"], *map(_mean_and_spread, (last, no_average))])
    images_seen = {
        name: " / ".join("not reached" if count is None else f"{count:,}" for count in counts)
        for name, counts in ablation["images_to_fid_1"].items()
    }
    published = ablation["protocol"]["default"]["epochs"] * FULL_TRAINING_DIGITS
    header = ["variant", FID.label, f"{FID.label}, no averaging"]
    return (
        f"Each variant differs from the default in what its name says. It saw {ablation['protocol']['images']:,} "
        f"training images, repeats counted (the published training: {published:,}), at a constant learning rate, and "
        "was scored on the validation digits; "
        f"mean ± standard deviation over {len(ablation['rows'][0]['runs'])} seeds:\n\n{table(header, rows)}\n\n"
        f"Training images until the validation {FID.label} is at most 1, scored every 500 steps, for each seed: with "
        f"labels {images_seen['default']}; without, in longer trainings, {images_seen['unconditional']}."
    )


def ablation_scores(ablation: dict) -> str:
    """The Inception Score of each variant."""
    rows = [
        [row["variant"], _mean_and_spread([run["scores"][-1][INCEPTION_SCORE] for run in row["runs"]])]
        for row in ablation["rows"]
    ]
    return table(["variant", INCEPTION_SCORE.label], rows)


def _mean_and_spread(values: list[float]) -> str:
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def speed_text(benchmark: dict, epochs: int) -> str:
    """The time to generate a digit, and that of `epochs` epochs of training."""
    inference, step = benchmark["inference"], benchmark["training_step"]
    machine = benchmark["protocol"]["machine"]
    minutes = epochs * FULL_TRAINING_DIGITS / step["images_per_second"] / 60
    return (
        f"One digit takes {inference['seconds_per_image_of_64'] * 1000:.2f} ms when 64 are drawn, "
        f"{inference['seconds_per_image_alone'] * 1000:.2f} ms alone, from seed to pixels. Training sees "
        f"{step['images_per_second']:.0f} images/s: {step['images_per_second'] * step['gflop_per_image']:.0f} GFLOP/s, "
        f"{step['share_of_peak']:.0%} of the {step['peak_gflop_per_second']:.0f} GFLOP/s of a large matrix product in "
        f"{machine['training_precision']} ({machine['processor']}, {machine['threads']} threads; 160 steps). At that "
        f"rate the {epochs} epochs of the published training take {minutes:.0f} minutes."
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
            f"seeds {', '.join(map(str, protocol['seeds']))}. The latents have a standard deviation of "
            f"{protocol['latent_std']:g}; of 1, as in training, where checkpoints, variants and tutorials are scored.",
            f"- FID: Fréchet distance in float64. KID: {subsets} subsets of {size}. Inception Score: "
            f"{protocol['splits']} splits. Precision and recall: {protocol['neighbours']} nearest neighbours.",
        ]
    )


# --- figures ---


def score_curves(metrics: dict) -> Figure:
    """FID and Inception Score over epochs, with the values of real digits."""
    rows = metrics["checkpoints"]
    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(WIDTH, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    references = (
        (FID, top, "random training digits", _fid_of_training_digits(metrics)),
        (INCEPTION_SCORE, bottom, "real test digits", metrics["final"][INCEPTION_SCORE]["real"]),
    )
    for metric, axes, name, reference in references:
        axes.plot(epochs, [row[metric] for row in rows], "o-", color=BLUE, label="generated digits")
        axes.axhline(reference, color=ORANGE, linestyle="--", label=name)
        axes.set_ylabel(metric.label)
        axes.legend()
    bottom.set_xlabel("epoch")
    top.set_yscale("log")
    top.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 4)))
    top.yaxis.set_major_formatter("{x:g}")
    top.yaxis.set_minor_formatter(NullFormatter())
    return figure


def loss_curves(losses: list[dict]) -> Figure:
    """Mean losses of each epoch."""
    epochs = [row["epoch"] for row in losses]
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(epochs, [row["discriminator_loss"] for row in losses], color=BLUE, label="discriminator")
    axes.plot(epochs, [row["generator_loss"] for row in losses], color=ORANGE, linestyle="--", label="generator")
    axes.axhline(2 * np.log(2), color=GREY, linewidth=1, linestyle=":", label="guessing: 2 ln 2 and ln 2")
    axes.axhline(np.log(2), color=GREY, linewidth=1, linestyle=":")
    axes.set(xlabel="epoch", ylabel="loss (nats)")
    axes.legend()
    return figure


def progress_strip(run_paths: paths.ImagePaths, checkpoints: list[dict]) -> np.ndarray:
    """The first row of each checkpoint's grid, one below the other: uint8 (height, width)."""
    grids = [saved_grid(run_paths, row["epoch"]) for row in checkpoints]
    return np.concatenate([grid[: len(grid) // SAMPLE_GRID_SIDE] for grid in grids])


def saved_grid(run_paths: paths.ImagePaths, epoch: int) -> np.ndarray:
    """The sample grid of a checkpoint: uint8 (height, width). Raises CheckpointError if it is missing or damaged."""
    path = run_paths.grid(epoch)
    try:
        return np.asarray(Image.open(path))
    except OSError as error:
        raise CheckpointError(f"{paths.relative(path)} is missing or damaged: restore it with git checkout") from error
