"""Long arrays on disk: a recording of any length is written once and read back piece by piece."""

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src import paths
from src.errors import OutputError


class Spool:
    """A float32 array (channels, times, ...) in a temporary file. It grows in time by `append`, and `spool[:, a:b]`
    reads a stretch of it as a tensor. The file has no name that survives the process.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.shape: tuple[int, ...] = (0, 0)
        try:
            self.file = tempfile.TemporaryFile(prefix=".", suffix=".tmp", dir=folder)  # noqa: SIM115 (closed with self)
        except OSError as error:
            raise self._refusal(error) from error

    def append(self, part: Tensor) -> None:
        """Add `part` (channels, times, ...) at the end."""
        channels, times, *rest = part.shape
        self.shape = (channels, self.shape[1] + times, *rest)
        try:
            self.file.write(part.transpose(0, 1).contiguous().float().cpu().numpy().data)
        except OSError as error:
            raise self._refusal(error) from error

    def __getitem__(self, index: tuple[slice, slice]) -> Tensor:
        """The tensor at `[:, begin:end]`."""
        begin, end, _ = index[1].indices(self.shape[1])
        channels, _, *rest = self.shape
        values = channels * math.prod(rest)  # at each time
        self.file.seek(begin * values * 4)
        rows = np.frombuffer(bytearray(self.file.read(max(0, end - begin) * values * 4)), np.float32)
        return torch.from_numpy(rows).reshape(-1, channels, *rest).transpose(0, 1)

    def __len__(self) -> int:
        return self.shape[0]

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_) -> None:
        self.file.close()

    def _refusal(self, error: OSError) -> OutputError:
        return OutputError(f"{paths.relative(self.folder)} cannot hold temporary files ({error.strerror or error})")


def pieces(array: Tensor | Spool, length: int) -> Iterator[Tensor]:
    """The array (channels, times, ...) in consecutive pieces of at most `length` times."""
    for begin in range(0, array.shape[1], length):
        yield array[:, begin : begin + length]
