"""Arguments and checks that several commands share.

The files of this package import torch, the halves and the report only inside the handlers, so that `--help`, a wrong
argument or an existing output is answered at once.
"""

import argparse
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from src import paths
from src.config import PROFILES, AudioConfig, ImageConfig
from src.errors import UsageError
from src.files import PartialResults, delete, existing_parent

Handler = Callable[[argparse.Namespace], None]


def add_command(commands, name: str, handler: Handler, text: str) -> argparse.ArgumentParser:
    """Add a command to the sub-parsers `commands`; `text` is its help, without a full stop."""
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(handler=handler)
    return command


def add_training(command: argparse.ArgumentParser, epochs: int, quick: str, unit: str) -> None:
    """Arguments of `train`: profile, run, epochs, seed, overwrite."""
    text = f"full: {epochs} epochs (default); quick: {quick}"
    command.add_argument("--profile", choices=PROFILES, default="full", help=text)
    add_run(command, default=None, text="name of the run; its files go to folders of that name (default: the profile)")
    command.add_argument("--epochs", type=int, help=f"passes over {unit} (default: the profile's)")
    command.add_argument("--seed", type=int, help="seed of weights, batches and noise (default: 0)")
    add_overwrite(command, "start again: delete the run's training states and log")


def add_evaluation(command: argparse.ArgumentParser, profiles: str) -> None:
    """Arguments of `evaluate`: profile, run, model, overwrite."""
    command.add_argument("--profile", choices=PROFILES, default="full", help=profiles)
    add_run(command, default="full", text="run to evaluate (default: full, the published model)")
    command.add_argument("--model", help="file of a model (.safetensors or .pt): print its scores, write nothing")
    add_overwrite(command, "replace the recorded scores")


def add_run(command: argparse.ArgumentParser, default: str | None, text: str) -> None:
    """The argument --run."""
    command.add_argument("--run", metavar="NAME", default=default, help=text)


def add_model(command: argparse.ArgumentParser) -> None:
    """The argument --model."""
    command.add_argument("--model", help="file of a model: .safetensors or .pt (default: the published model)")


def add_overwrite(command: argparse.ArgumentParser, text: str = "replace the output") -> None:
    """The argument --overwrite."""
    command.add_argument("--overwrite", action="store_true", help=text)


def positive(number: type) -> Callable[[str], float]:
    """An argparse type: a finite `number` above 0."""

    def parse(text: str) -> float:
        try:
            value = number(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not above 0, or not finite")
        return value

    return parse


def refuse_existing(target: Path, overwrite: bool, is_folder: bool = False) -> None:
    """Raise UsageError before any work if `target` exists and may not be replaced, or cannot be written."""
    name = paths.relative(target)
    try:
        empty_folder = target.is_dir() and not any(target.iterdir())
        if target.exists() and not empty_folder and not overwrite:
            raise UsageError(f"{name} exists: add --overwrite to replace it")
        folder = target if target.is_dir() else existing_parent(target)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        raise UsageError(f"{name} cannot be written ({getattr(error, 'strerror', None) or error})") from error
    if folder == target and target.suffix and not is_folder:
        raise UsageError(f"{name} cannot be written: it is a folder")
    if not folder.is_dir():
        raise UsageError(f"{name} cannot be written: {paths.relative(folder)} is not a folder")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{name} cannot be written: no permission to write into {paths.relative(folder)}")


def overridden(config: ImageConfig | AudioConfig, options: argparse.Namespace) -> ImageConfig | AudioConfig:
    """`config` with the epochs and the seed of the command line, where they are given, and at least one example in a
    batch for each process. Raises UsageError."""
    from src import distributed

    changes = {name: value for name in ("epochs", "seed") if (value := getattr(options, name)) is not None}
    return replace(config, batch_size=distributed.at_least_one_each(config.batch_size), **changes)


def prepare_run(run_paths: paths.RunPaths, options: argparse.Namespace, complete: bool) -> paths.RunPaths:
    """The run to train: the named one, or the profile's. With --overwrite, deletes its training states and log.

    Raises:
        UsageError: the run has published weights but no training state to resume from.
    """
    from src import checkpoints, distributed, training_loop

    if not options.run:
        run_paths = training_loop.find_run(run_paths, complete)
    states = checkpoints.states(run_paths)
    if options.overwrite:
        if distributed.is_main():
            for path in (*states, run_paths.training_log):
                delete(path)
        distributed.wait_for_all()
    elif not states and run_paths.weights.is_file():
        raise UsageError(
            f"{paths.relative(run_paths.weights)} exists, without a training state to resume from: "
            "add --run NAME to train another run, or --overwrite to replace it"
        )
    return run_paths


def print_training(run, run_paths: paths.RunPaths) -> None:
    """Print the length of a finished training run and the path of its model."""
    from src import distributed

    if distributed.is_main():
        print(f"{run.epoch} epochs, {run.step:,} steps, {run.seconds / 60:.1f} minutes of training")
        print(f"best model: {paths.relative(run_paths.weights)}")


def print_accuracy(path: Path, accuracies: dict[str, float]) -> None:
    """Print the accuracies of a published reference classifier."""
    shares = ", ".join(f"{share:.2%} {split}" for split, share in accuracies.items())
    print(f"{paths.relative(path)}: accuracy {shares}")


def open_partial_results(path: Path, key: dict) -> PartialResults:
    """The finished parts of an interrupted measurement; says so if there are any."""
    partial = PartialResults(path, key)
    if partial.parts:
        print(f"going on from {paths.relative(path)}, with {len(partial.parts)} finished parts")
    return partial
