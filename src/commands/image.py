"""`python -m src image ...`: the DCGAN on MNIST."""

import argparse
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from src import paths
from src.commands.options import (
    add_command,
    add_evaluation,
    add_model,
    add_overwrite,
    add_training,
    open_partial_results,
    overridden,
    positive,
    prepare_run,
    print_accuracy,
    print_training,
    refuse_existing,
)
from src.config import IMAGE_PROFILES, SPLITS, ClassifierConfig, ImageConfig, check_number, image_profile
from src.errors import UsageError
from src.files import Keep, delete, make_folder, save_json
from src.metric_tables import FID, INCEPTION_SCORE


def build_parser(program: str) -> argparse.ArgumentParser:
    """The parser of all image commands."""
    parser = argparse.ArgumentParser(prog=program, description="The DCGAN on MNIST.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = add_command(commands, "train", train, "train the DCGAN, or resume from its latest checkpoint")
    add_training(command, ImageConfig().epochs, "2 epochs, in minutes", "the 50,000 training digits")

    command = add_command(
        commands, "train-classifier", train_classifier, "train the reference classifier (about 5 minutes)"
    )
    add_overwrite(command, "replace the published classifier, which changes the meaning of every mnist metric")

    command = add_command(commands, "evaluate", evaluate, "measure a generator against the test digits")
    add_evaluation(command, "full: 8 seeds of 10,000 images (default); quick: 1 seed of 2,000")
    command.add_argument(
        "--inception",
        nargs="?",
        const="download",
        metavar="WEIGHTS",
        help="also measure with InceptionV3, with the weights in a file or downloaded; slow on a CPU",
    )

    command = add_command(commands, "generate", generate, "generate digits, or write a number")
    command.add_argument("--digits", help="a number to write, or one digit to repeat (default: digits drawn at random)")
    command.add_argument(
        "--count", type=int, help="digits, or rows of a number, each in another hand (default: 64, or 1 row)"
    )
    command.add_argument("--seed", type=int, default=0, help="image or row i depends on (seed, i) alone (default: 0)")
    command.add_argument("--columns", type=positive(int), help="columns of the grid (default: 8)")
    _add_output(command)

    command = add_command(commands, "interpolate", interpolate, "go from one seed, or digit, to another")
    command.add_argument("--start", type=int, default=0, help="seed of the first latent (default: 0)")
    command.add_argument("--end", type=int, help="seed of the last latent (default: 1; with --to-digit, --start)")
    command.add_argument("--from-digit", type=int, help="the first digit (default: drawn by the seed --start)")
    command.add_argument("--to-digit", type=int, help="the last digit (default: the first)")
    command.add_argument("--steps", type=int, default=10, help="number of digits, both ends included (default: 10)")
    _add_output(command)

    command = add_command(commands, "bench", bench, "time the DCGAN, and compare it with two tutorials' DCGANs")
    command.add_argument("--minutes", type=positive(float), default=20, help="training time of each (default: 20)")
    add_overwrite(command, "replace the recorded comparison")

    command = add_command(commands, "ablate", ablate, "train variants of the DCGAN, each with three seeds")
    images_help = "training images that each sees, repeats counted (default: 160000)"
    command.add_argument("--images", type=positive(int), default=160_000, help=images_help)
    add_overwrite(command, "replace the recorded table")
    return parser


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--output",
        help="NAME.png: one grid; NAME.npy: uint8 (count, 1, 28, 28), of numbers (count, digits, 1, 28, 28); "
        "NAME: a folder of PNG files (default: a grid in generated_images)",
    )
    add_model(command)
    add_overwrite(command)


def train(options: argparse.Namespace) -> None:
    """Train the DCGAN in this process, or in several started by torchrun."""
    from src import distributed
    from src.image import data, evaluation, training

    with distributed.process_group():
        digits = distributed.main_first(lambda: data.load_mnist("train"))
        config, protocol = image_profile(options.profile, len(digits))
        config = overridden(config, options)
        run_paths = prepare_run(paths.ImagePaths(options.run or options.profile), options, digits.complete)
        scorer = evaluation.Scorer(data.load_mnist("validation"), digits, protocol) if distributed.is_main() else None

        def on_checkpoint(run: training.Run) -> None:
            scorer.save_examples(run.average, run_paths, run.epoch)
            scores = ", ".join(f"{metric} {metric.format(run.scores[-1][metric])}" for metric in (FID, INCEPTION_SCORE))
            print(f"\nepoch {run.epoch}: {scores} (validation digits)")

        score = scorer.score_checkpoint if scorer else None
        print_training(training.train(config, digits, run_paths, score, on_checkpoint), run_paths)


def train_classifier(options: argparse.Namespace) -> None:
    """Train, measure and publish the reference digit classifier."""
    path = paths.IMAGE.classifier
    refuse_existing(path, options.overwrite)
    from src import classifiers
    from src.image import classifier, data

    splits = {split: data.load_mnist(split) for split in SPLITS}
    accuracies = classifiers.train_and_publish(classifier.train, classifier.accuracy, ClassifierConfig(), splits, path)
    print_accuracy(path, accuracies)


def evaluate(options: argparse.Namespace) -> None:
    """Print the scores of a generator; those of a run are recorded too."""
    run_paths = paths.ImagePaths(options.run)
    if not options.model:
        refuse_existing(run_paths.metrics, options.overwrite)
    from src import training_loop
    from src.image import data, dcgan, evaluation

    published = run_paths == paths.IMAGE and not options.model
    if published and (options.profile != "full" or not data.load_mnist("test").complete):
        raise UsageError("the published scores come from the whole of MNIST in the full profile: name another --run")
    history = {} if options.model else training_loop.read_history(run_paths)
    model = dcgan.load_model(options.model or run_paths.weights)
    measured = evaluation.evaluate(model, IMAGE_PROFILES[options.profile][1], options.inception)
    if published:  # for comparison
        unconditional = dcgan.load_model(paths.IMAGE.unconditional)
        measured["unconditional"] = evaluation.evaluate(unconditional, IMAGE_PROFILES["full"][1])["final"]
    for metric, row in measured["final"].items():
        if metric != "digit_shares":
            spread = f" +- {row['std']:.4f}" if row["std"] is not None else ""
            print(f"{metric:28} {row['mean']:9.4f}{spread}   (real digits: {row['real']:.4f})")
    for name, reason in measured["not_measured"].items():
        print(f"{name}: not measured ({reason})")
    if not options.model:
        save_json(run_paths.metrics, {**measured, **history})
        print(f"wrote {paths.relative(run_paths.metrics)}")


def generate(options: argparse.Namespace) -> None:
    """Write generated digits, or a number."""
    digits = options.digits
    if digits is not None:
        check_number(digits)
    is_number = digits is not None and len(digits) > 1
    if is_number and options.columns:
        raise UsageError("a number has one column for each digit: leave out --columns")
    count = options.count if options.count is not None else 1 if is_number else 64
    output = _checked_output(options, f"{digits or 'digits'}_seed{options.seed}.png")
    from src.image import dcgan
    from src.image import generate as generation

    model = dcgan.load_model(options.model)
    if is_number:
        images = generation.write_number(model, digits, count, options.seed)
    else:
        images = generation.sample(model, count, options.seed, None if digits is None else int(digits))
    generation.save(images, output, columns=len(digits) if is_number else options.columns or 8)
    print(f"wrote {count} {f'x {digits}' if is_number else 'digits'} to {paths.relative(output)}")


def interpolate(options: argparse.Namespace) -> None:
    """Write digits between two seeds or two digits."""
    start, from_digit, to_digit = options.start, options.from_digit, options.to_digit
    end = options.end if options.end is not None else 1 if to_digit is None else start
    digits = "".join(f"_{digit}" for digit in (from_digit, to_digit) if digit is not None)
    output = _checked_output(options, f"interpolation{digits}_seeds_{start}_{end}.png")
    from src.image import dcgan
    from src.image import generate as generation

    model = dcgan.load_model(options.model)
    images = generation.interpolate(model, start, end, options.steps, from_digit, to_digit)
    generation.save(images, output, columns=options.steps)
    print(f"wrote {options.steps} steps to {paths.relative(output)}")


def _checked_output(options: argparse.Namespace, default_name: str) -> Path:
    """The output's path. Raises UsageError before any work if it exists or its format is unknown."""
    output = Path(options.output or paths.IMAGE.samples / default_name)
    is_folder = str(options.output).endswith(("/", os.sep))
    refuse_existing(output, options.overwrite, is_folder)
    from src.image.generate import check_suffix

    if is_folder:
        make_folder(output)  # its name may have a dot
    check_suffix(output)
    return output


def bench(options: argparse.Namespace) -> None:
    """Record timings, and the comparison with two tutorials' DCGANs."""
    refuse_existing(paths.IMAGE.benchmark, options.overwrite)
    from src.image import benchmark

    _record_in_parts(paths.IMAGE.benchmark, benchmark.compare, options.minutes)


def ablate(options: argparse.Namespace) -> None:
    """Record the ablation table."""
    refuse_existing(paths.IMAGE.ablation, options.overwrite)
    from src.image import benchmark

    _record_in_parts(paths.IMAGE.ablation, benchmark.ablate, options.images)


def _record_in_parts(path: Path, measure: Callable[[float, Keep], dict], amount: float) -> None:
    """Write what `measure(amount of training, keep)` returns. An interrupted measurement goes on from its last finished
    part."""
    from src import runtime
    from src.image.data import load_mnist

    machine = runtime.describe_machine()
    key = {"amount": amount, "config": asdict(ImageConfig()), "machine": machine, "data": load_mnist("train").source}
    partial = open_partial_results(path.with_suffix(".partial.json"), key)
    save_json(path, measure(amount, partial))
    delete(partial.path)
    print(f"wrote {paths.relative(path)}")
