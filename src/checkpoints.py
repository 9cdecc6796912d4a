"""Files of models: training states (.pt), and published weights (.safetensors) that carry their own description."""

import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from src.config import Config, from_json
from src.errors import CheckpointError, OutputError, UserError
from src.files import save_json, write_atomically
from src.paths import RunPaths, relative


def state_path(run_paths: RunPaths, epoch: int) -> Path:
    """The training state after `epoch` epochs. `states` finds files of this name."""
    return run_paths.checkpoints / f"epoch_{epoch:03d}.pt"


def save_state(path: Path, state: dict) -> None:
    """Write a training state: tensors, numbers, strings, and dicts and lists of them. Raises OutputError."""
    try:
        write_atomically(path, lambda temporary: torch.save(state, temporary))
    except RuntimeError as error:  # torch's own writer, for example on a full disk
        reason = str(error).splitlines()[0]
        raise OutputError(f"{relative(path)} cannot be written ({reason}): check the free space of the disk") from error


def load_state(path: Path) -> dict:
    """Read a training state onto the CPU without running any code that the file may carry (`weights_only`).

    Raises:
        CheckpointError: the file is missing, damaged, not a PyTorch file, or does not contain a dictionary.
    """
    _check_readable(path)
    try:
        _check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{relative(path)} is not a training state of this project: it holds more than tensors, numbers and strings"
        ) from error
    except Exception as error:  # torch raises half a dozen types for a damaged archive
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{relative(path)} cannot be read ({reason}): it is damaged, or not a PyTorch file"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{relative(path)} is not a dictionary, and so not a training state")
    return state


def _check_archive(path: Path) -> None:
    """Raise an exception if a training state, a ZIP archive, is altered: `torch.load` reads beyond the end of a record
    whose size was altered, and compares no checksum."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        # torch.load takes the records of the first of two joined files, and no content of one that is marked a folder.
        if not records or records[0].header_offset or any(record.external_attr for record in records):
            raise zipfile.BadZipFile("its list of records is altered")
        if record := archive.testzip():
            raise zipfile.BadZipFile(f"the checksum of {record} is wrong")


def _check_readable(path: Path) -> None:
    try:
        with open(path, "rb"):
            return
    except FileNotFoundError as error:
        raise CheckpointError(f"{relative(path)} does not exist") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{relative(path)} is a folder") from error
    except OSError as error:
        raise CheckpointError(f"{relative(path)} cannot be read ({error.strerror or error})") from error


def save_weights(path: Path, weights: dict[str, Tensor], description: dict) -> None:
    """Publish weights as safetensors. `description`, which must be JSON and hold the `config`, goes into the file's
    metadata; a copy for readers is written to a .json of the same name. Raises OutputError.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    metadata = {"format": "pt", "description": json.dumps(description)}
    try:
        write_atomically(path, lambda temporary: save_file(contiguous, temporary, metadata))
    except SafetensorError as error:
        raise OutputError(f"{relative(path)} cannot be written ({error})") from error
    save_json(path.with_suffix(".json"), description)


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Published weights, on the CPU, and their description, from the file's metadata.

    Raises:
        CheckpointError: the file is missing, damaged, or carries no description.
    """
    _check_readable(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            description = json.loads(metadata["description"])
            return {name: file.get_tensor(name) for name in file.keys()}, description  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{relative(path)} is damaged, or no safetensors file ({error}): restore a published one with git checkout"
        ) from error
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{relative(path)} has no description of its model in its metadata: it is of another program, or of an "
            "earlier version of this one; train and publish it again"
        ) from error


Network = TypeVar("Network", bound=nn.Module)


def load_network(path: Path, kind: type[Config], build: Callable[[Config], Network], name: str) -> Network:
    """The network of published weights (.safetensors), or the averaged network of a training state (.pt), built from
    its own configuration, of type `kind`. On the CPU, in evaluation mode.

    Raises:
        CheckpointError: the file is missing, damaged, or holds no such network, which `name` describes, or weights that
            are not finite.
    """
    if path.suffix.lower() == ".pt":
        description = load_state(path)
        weights = description.get("average")
    else:
        weights, description = load_weights(path)
    try:
        network = build(from_json(kind, description["config"]))
        network.load_state_dict(weights)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        reason = f": {error}" if isinstance(error, UserError) else ""
        raise CheckpointError(f"{relative(path)} is not a {name} of this version of the project{reason}") from error
    if not all(torch.isfinite(tensor).all() for tensor in network.state_dict().values()):
        raise CheckpointError(f"{relative(path)} has weights that are not finite")
    return network.eval()


def states(run_paths: RunPaths) -> list[Path]:
    """The run's training states, from the latest epoch to the first. Files with other names are ignored."""
    found = {
        int(match[1]): path
        for path in run_paths.checkpoints.glob("epoch_*.pt")
        if (match := re.fullmatch(r"epoch_(\d+)\.pt", path.name))
    }
    return [found[epoch] for epoch in sorted(found, reverse=True)]
