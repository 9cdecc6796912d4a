"""Saving and loading: atomic writes, safe loads, published weights beside the configuration that rebuilds them, and
what a training run leaves on disk: its states and its log."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from src import runtime
from src.paths import RunPaths, relative


class CheckpointError(RuntimeError):
    """A saved file is missing, damaged, or does not belong to what it is loaded into."""


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` on a file beside `path`, flush it to disk and move it into place.

    A kill at any moment leaves either the previous file or the new one, whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")  # one name, so that what a kill leaves is overwritten later
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_json(path: Path, content: dict) -> None:
    """Write `content` as indented JSON, atomically."""
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def load_json(path: Path) -> dict:
    """Read a JSON object. Raises CheckpointError where the file is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{relative(path)} does not exist") from None
    except ValueError as error:
        raise CheckpointError(f"{relative(path)} is not valid JSON ({error}): restore it with git checkout") from None


def save_state(path: Path, state: dict) -> None:
    """Write a training state: tensors, numbers, strings, dicts and lists of them."""
    write_atomically(path, lambda temporary: torch.save(state, temporary))


def load_state(path: Path) -> dict:
    """Read a training state onto the CPU, running no code that the file may carry (`weights_only`)."""
    if not path.is_file():
        raise CheckpointError(f"{relative(path)} does not exist")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a damaged archive
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{relative(path)} cannot be read ({reason}): it is damaged or no PyTorch file"
        ) from error


def save_weights(path: Path, weights: dict[str, torch.Tensor], description: dict) -> None:
    """Publish weights as safetensors, and beside them a .json that says what they are and how to rebuild the model."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomically(path, lambda temporary: save_file(contiguous, temporary))
    save_json(path.with_suffix(".json"), description)


def load_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Published weights and their description. Raises CheckpointError where either is missing or damaged."""
    if not path.is_file():
        raise CheckpointError(f"{relative(path)} does not exist")
    description = load_json(path.with_suffix(".json"))
    try:
        return load_file(path), description
    except SafetensorError as error:
        raise CheckpointError(f"{relative(path)} is damaged ({error}): restore it with git checkout") from error


def load_average(path: Path) -> tuple[dict[str, torch.Tensor] | None, dict]:
    """The averaged model of published weights (.safetensors) or of a training state (.pt), and its description."""
    if path.suffix == ".pt":
        state = load_state(path)
        return state.get("average"), state
    return load_weights(path)


# --- a training run ---


class Resumable:
    """A training run whose state is that of its `PARTS`, which have a `state_dict` themselves, and its counters."""

    PARTS: ClassVar[tuple[str, ...]]
    COUNTERS: ClassVar[tuple[str, ...]] = ("epoch", "step", "seconds", "scores")

    def state_dict(self) -> dict:
        parts = {name: getattr(self, name).state_dict() for name in self.PARTS}
        counters = {name: getattr(self, name) for name in self.COUNTERS}
        return parts | counters | {"config": asdict(self.config)}

    def load_state_dict(self, state: dict) -> None:
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])
        for name in self.COUNTERS:
            setattr(self, name, state[name])


def latest(where: RunPaths) -> Path | None:
    """The run's last training state, if it has any."""
    return max(where.checkpoints.glob("epoch_*.pt"), key=lambda path: int(path.stem.split("_")[1]), default=None)


def load_latest(where: RunPaths, now: dict) -> dict | None:
    """The run's last training state, if it has any.

    Raises:
        CheckpointError: where its `config` and `data` are not those of `now`.
    """
    path = latest(where)
    if not path:
        return None
    state = load_state(path)
    then = state["config"] | {"data": state["data"]}
    differences = [f"{key} {then.get(key)}, now {value}" for key, value in now.items() if then.get(key) != value]
    if differences:
        raise CheckpointError(
            f"{relative(path)} is of another run ({', '.join(differences)}): "
            "choose another --run, or --overwrite to begin again"
        )
    return state


class Log:
    """A JSONL file of one object per event; what lies beyond `epoch` is dropped, since it will be computed again."""

    def __init__(self, path: Path, epoch: int):
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        self.lines = [line for line in lines if json.loads(line)["epoch"] <= epoch] if epoch else []

    def write(self, entry: dict) -> None:
        if runtime.is_main():
            self.lines.append(json.dumps(entry))
            content = "\n".join(self.lines) + "\n"
            write_atomically(self.path, lambda path: path.write_text(content, encoding="utf-8"))


def find_run(where: RunPaths, complete: bool) -> RunPaths:
    """The run to use: one on a packaged sample keeps apart, unless `where` itself is there to be loaded."""
    return where if complete or finished(where) else replace(where, run=f"{where.run}-sample")


def finished(where: RunPaths) -> bool:
    """Whether a run is complete: its weights published, its log scored at the last of its epochs."""
    if not (where.weights.is_file() and where.training_log.is_file()):
        return False
    lines = where.training_log.read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[-1])
    return "training_seconds" in last and last["epoch"] == json.loads(lines[0])["config"]["epochs"]


def read_history(where: RunPaths) -> dict:
    """What the log tells of a run: `training` (configuration, machine, epochs, seconds, losses of each epoch) and
    `checkpoints` (scores on the validation split).

    Raises:
        CheckpointError: where there is no log, or none of an epoch.
    """
    if where.training_log.is_file():
        start_line, *lines = [json.loads(line) for line in where.training_log.read_text(encoding="utf-8").splitlines()]
        if losses := [line for line in lines if "seconds" in line]:
            start_line.pop("epoch")
            training = start_line | {"epochs": losses[-1]["epoch"], "seconds": losses[-1]["seconds"], "losses": losses}
            return {"training": training, "checkpoints": [line for line in lines if "training_seconds" in line]}
    raise CheckpointError(f"{relative(where.training_log)} tells of no epoch: train this run first")
