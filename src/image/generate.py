"""From a trained generator to digits: latents, samples, numbers, interpolations, files."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from src import files, runtime
from src.config import LATENT_STD, check_number
from src.errors import UsageError
from src.image.data import to_pixels
from src.image.dcgan import Generator, one_hot


def draw_latents(count: int, latent_dim: int, seed: int = 0, std: float = LATENT_STD) -> Tensor:
    """Normal latents (count, latent_dim) of mean 0 and standard deviation `std`. Row i depends on (seed, i) alone.

    Raises:
        UsageError: `count` below 1, a negative `seed`, or a `std` that is negative or not finite.
    """
    if count < 1:
        raise UsageError(f"count is {count}: it must be at least 1")
    if not 0 <= std < math.inf:
        raise UsageError(f"the standard deviation of the latents is {std}: it must be 0 or more, and finite")
    rows = [torch.randn(latent_dim, generator=runtime.random_stream(seed, row)) for row in range(count)]
    return std * torch.stack(rows)


def draw_digits(count: int, seed: int = 0, labels: Tensor | None = None) -> Tensor:
    """Digits, int64 (count,), drawn from `labels` (n,), as frequent as there; None: all ten are equally likely. Entry i
    depends on (seed, i) alone."""
    labels = torch.arange(10) if labels is None else labels
    return labels[torch.randint(len(labels), (count,), generator=runtime.random_stream(seed))]


@torch.inference_mode()
def decode(model: Generator, latents: Tensor, digits: Tensor, batch_size: int = 64) -> Tensor:
    """Images, uint8 (count, 1, 28, 28) on the CPU, of latents (count, latent_dim) and one-hot digits (count,
    classes); computed in float32.

    Raises:
        ValueError: the model is in training mode.
    """
    if model.training:
        raise ValueError("the generator is in training mode: call .eval() first")
    device = next(model.parameters()).device
    batches = zip(latents.split(batch_size), digits.split(batch_size), strict=True)
    return torch.cat([to_pixels(model(latent.to(device), digit.to(device))).cpu() for latent, digit in batches])


def sample(
    model: Generator,
    count: int,
    seed: int = 0,
    digits: int | Sequence[int] | Tensor | None = None,
    latent_std: float = LATENT_STD,
) -> Tensor:
    """Generate digits: uint8 (count, 1, 28, 28). Image i depends on (seed, i) and on its digit alone.

    `digits` is one digit, or one for each image. None: all ten are equally likely. `latent_std` is the standard
    deviation of the latents.

    Raises:
        UsageError: invalid arguments, or a digit is asked of an unconditional generator.
    """
    latents = draw_latents(count, model.latent_dim, seed, latent_std)
    digits = draw_digits(count, seed) if digits is None else _check_digits(model, digits, count)
    return decode(model, latents, one_hot(digits, model.classes))


def write_number(model: Generator, digits: str, count: int = 1, seed: int = 0) -> Tensor:
    """Write a number `count` times: uint8 (count, digits, 1, 28, 28).

    All digits of row r come from one latent, as from one hand; it depends on (seed, r) alone. Leading zeros are kept.

    Raises:
        UsageError: `digits` are not 1 to 32 of the characters 0 to 9, `count` is below 1, `seed` is negative, or the
            generator is unconditional.
    """
    check_number(digits)
    latents = draw_latents(count, model.latent_dim, seed).repeat_interleave(len(digits), dim=0)
    asked = _check_digits(model, [int(digit) for digit in digits] * count, len(latents))
    return decode(model, latents, one_hot(asked, model.classes)).unflatten(0, (count, len(digits)))


def _check_digits(model: Generator, digits: int | Sequence[int] | Tensor, count: int) -> Tensor:
    """`digits` as int64 (count,). Raises UsageError if the model cannot be asked for them."""
    if not model.classes:
        raise UsageError("this generator is unconditional and cannot be asked for a digit: leave the digits out")
    digits = torch.as_tensor(digits)
    if digits.is_floating_point() or digits.ndim > 1 or (digits.ndim == 1 and len(digits) != count):
        raise UsageError(f"digits are {digits.dtype} {tuple(digits.shape)}: give one integer, or one for each image")
    if len(wrong := digits[(digits < 0) | (digits >= model.classes)].flatten()):
        raise UsageError(f"digit is {int(wrong[0])}: it must lie between 0 and {model.classes - 1}")
    return digits.long().expand(count)


def interpolate(
    model: Generator,
    start: int,
    end: int,
    steps: int,
    from_digit: int | None = None,
    to_digit: int | None = None,
) -> Tensor:
    """Digits between two latents, between two digits, or both: uint8 (steps, 1, 28, 28), both ends included.

    The latents lie on the great circle between the first latents of the seeds `start` and `end`, since most of a normal
    distribution's mass lies near a sphere (White 2016, https://arxiv.org/abs/1609.04468): a straight line would leave
    the region that the generator was trained on. The digits' one-hot vectors are mixed linearly. `from_digit` None is
    the digit that `sample` draws first for the seed `start`; `to_digit` None is `from_digit`.

    Raises:
        UsageError: fewer than 2 steps, a negative seed, an invalid digit, or a digit asked of an unconditional
            generator.
    """
    if steps < 2:
        raise UsageError(f"steps is {steps}: an interpolation has at least its 2 ends")
    positions = torch.linspace(0, 1, steps)
    first, last = (draw_latents(1, model.latent_dim, seed)[0] for seed in (start, end))
    drawn = draw_digits(1, start)
    before = drawn if from_digit is None else _check_digits(model, from_digit, 1)
    after = before if to_digit is None else _check_digits(model, to_digit, 1)
    digits = torch.lerp(one_hot(before, model.classes), one_hot(after, model.classes), positions[:, None])
    return decode(model, slerp(first, last, positions), digits)


def slerp(first: Tensor, last: Tensor, positions: Tensor) -> Tensor:
    """Spherical interpolation from `first` to `last` (dim,): (count, dim) at `positions` (count,) in [0, 1]. The
    lengths are interpolated by the same weights."""
    angle = torch.arccos(torch.clamp(torch.dot(first / first.norm(), last / last.norm()), -1, 1))
    if torch.sin(angle) < 1e-6:  # parallel: the arc is the line
        return torch.lerp(first, last, positions[:, None])
    weights = torch.sin(torch.stack([1 - positions, positions]) * angle) / torch.sin(angle)
    return weights[0][:, None] * first + weights[1][:, None] * last


def grid(images: Tensor, columns: int, scale: int = 1) -> np.ndarray:
    """Tile uint8 images (count, 1, 28, 28) row by row, with 1 black pixel around each: uint8 (height, width).

    Each pixel is enlarged to `scale` x `scale`. Not by torchvision, whose import takes as long as that of torch.

    Raises:
        UsageError: fewer than 1 column.
    """
    if columns < 1:
        raise UsageError(f"columns is {columns}: it must be at least 1")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    # Pad each image above and on the left, lay the tiles out, and close the grid below and on the right.
    tiles = pad(images[:, 0], (1, 0, 1, 0, 0, rows * columns - len(images)))  # (rows * columns, 29, 29)
    tiled = tiles.unflatten(0, (rows, columns)).transpose(1, 2).flatten(2).flatten(0, 1)  # (29 rows, 29 columns)
    return pad(tiled, (0, 1, 0, 1)).numpy().repeat(scale, axis=0).repeat(scale, axis=1)


def save(images: Tensor, path: Path, columns: int) -> None:
    """Write uint8 images (count, 1, 28, 28), or numbers (count, digits, 1, 28, 28), by the suffix of `path`, each file
    atomically.

    .png: one grid of `columns`, pixels doubled; .npy: one array; no suffix, or a folder that exists: a folder of
    00000.png, 00001.png, ..., one for each image or number. Pictures in the folder whose numbers continue these are
    deleted: an earlier call wrote them.

    Raises:
        UsageError: another suffix.
        OutputError: the file cannot be written.
    """
    check_suffix(path)
    suffix = "" if path.is_dir() else path.suffix.lower()
    numbers = images.reshape(len(images), -1, 28, 28)  # (count, digits, 28, 28), also for single images
    if suffix == ".npy":
        files.save_array(path, images.numpy())
    elif suffix == ".png":
        files.save_picture(path, grid(numbers.reshape(-1, 1, 28, 28), columns, scale=2))
    else:
        for row, picture in enumerate(numbers.transpose(1, 2).flatten(2)):  # (28, 28 digits)
            files.save_picture(path / f"{row:05d}.png", picture.numpy())
        following = itertools.takewhile(Path.exists, (path / f"{row:05d}.png" for row in itertools.count(len(images))))
        for old in reversed(list(following)):  # the last one first, so that an interruption leaves no gap
            files.delete(old)


def check_suffix(path: Path) -> None:
    """Raise UsageError unless `save` can write to `path`."""
    if path.suffix.lower() not in (".png", ".npy", "") and not path.is_dir():
        raise UsageError(f"cannot write {path.name}: end it in .png (a grid), in .npy, or in / (a folder)")
    if not path.suffix and path.is_file():
        raise UsageError(f"cannot write a folder of pictures to {path.name}: it is a file")
