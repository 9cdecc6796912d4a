"""Atomic writes of text, JSON, arrays, pictures and figures; reading of JSON; results of interrupted computations."""

import contextlib
import errno
import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from src.errors import CheckpointError, OutputError
from src.paths import relative

TEMPORARY = (".unfinished-", ".tmp")  # begin and end of a temporary file's name
ABANDONED = 3600  # seconds without a write, longer than any write takes


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` on a temporary file in the same folder, flush it to disk, and rename it to `path`.

    After a kill at any moment, `path` holds either the previous content or the new one, complete. Several processes may
    write one file. A symbolic link stays a link: its target is replaced.

    Raises:
        OutputError: the file system refuses the write (no space, no permission, ...).
    """
    try:
        target = path.resolve()
        if target.is_symlink():  # from Python 3.13 on, what is left of a loop of symbolic links
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    except (OSError, RuntimeError) as error:  # RuntimeError: such a loop, before Python 3.13
        raise OutputError(f"{relative(path)} cannot be written ({error})") from error
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target.parent)
        handle, name = tempfile.mkstemp(TEMPORARY[1], TEMPORARY[0], target.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            temporary.chmod(0o666 & ~_umask())
            write(temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{relative(path)} cannot be written ({error.strerror or error})") from error


def _remove_abandoned(folder: Path) -> None:
    """Delete temporary files that a killed process left here: those that nobody has written to for `ABANDONED`."""
    for path in folder.glob("*".join(TEMPORARY)):
        with contextlib.suppress(OSError):  # another process may have been faster
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()


def existing_parent(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    return next(folder for folder in path.resolve().parents if folder.exists())


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def make_folder(path: Path) -> None:
    """Create a folder unless it exists. Raises OutputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{relative(path)} cannot be created ({error.strerror or error})") from error


def delete(path: Path) -> None:
    """Delete a file if it exists. Raises OutputError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{relative(path)} cannot be deleted ({error.strerror or error})") from error


def save_text(path: Path, text: str) -> None:
    """Write UTF-8 text with Unix line ends, atomically. Raises OutputError."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))


def save_json(path: Path, content: dict) -> None:
    """Write `content` as indented JSON, atomically. Raises OutputError."""
    save_text(path, json.dumps(content, indent=2) + "\n")


def save_array(path: Path, array) -> None:
    """Write a NumPy array in the .npy format, atomically. Raises OutputError."""
    import numpy as np  # here, as Pillow below, so that the command line starts without them

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:  # np.save would add a suffix to the temporary name
            np.save(file, array)

    write_atomically(path, write)


def save_picture(path: Path, pixels) -> None:
    """Write uint8 pixels (height, width), a NumPy array, as a greyscale PNG, atomically. Raises OutputError."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))


def save_figure(path: Path, figure, dpi: int) -> None:
    """Write a Matplotlib figure as PNG, atomically. Raises OutputError."""
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=dpi))


def load_json(path: Path) -> dict:
    """Read a JSON object. Raises CheckpointError if the file is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not an object")
        return content
    except FileNotFoundError:
        raise CheckpointError(f"{relative(path)} does not exist") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{relative(path)} is damaged ({error}): restore it with git checkout") from None


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal. Raises CheckpointError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{relative(path)} cannot be read ({error.strerror or error})") from None


Result = TypeVar("Result")
Keep = Callable[..., Any]  # (name, function, *arguments) -> the function's result; `compute` or a `PartialResults`


def compute(name: str, function: Callable[..., Result], *arguments) -> Result:
    """The result of the part `name` of a long computation, kept nowhere."""
    return function(*arguments)


class PartialResults:
    """The finished parts of a long computation, in a JSON file from which a later process goes on.

    `key` is a JSON object of all that the results depend on. A file with another key, or a damaged one, is ignored with
    a warning, and replaced when the first part is finished.
    """

    def __init__(self, path: Path, key: dict):
        self.path, self.key = path, json.loads(json.dumps(key))
        self.parts = self._read() if path.is_file() else {}

    def _read(self) -> dict:
        try:
            content = load_json(self.path)
            if content["key"] == self.key:
                return dict(content["parts"])
            fault = "was begun with another model, protocol, data or machine"
        except (CheckpointError, KeyError, TypeError, ValueError):
            fault = "is damaged"
        warnings.warn(f"{relative(self.path)} {fault}: beginning again", stacklevel=3)
        return {}

    def __call__(self, name: str, function: Callable, *arguments):
        """The result of `function(*arguments)`, a JSON value, which is computed unless the file has it. Raises
        OutputError."""
        if name not in self.parts:
            # As plain JSON types, so that a result is the same whether it was computed now or before an interruption.
            self.parts[name] = json.loads(json.dumps(function(*arguments)))
            save_json(self.path, {"key": self.key, "parts": self.parts})
        return self.parts[name]
