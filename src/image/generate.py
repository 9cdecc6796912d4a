"""From a trained generator to digits: latents, samples, interpolations, files."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from src import files, runtime
from src.errors import UsageError
from src.image.data import to_pixels
from src.image.dcgan import Generator


def draw_latents(count: int, latent_dim: int, seed: int = 0) -> Tensor:
    """Standard normal latents (count, latent_dim). Row i depends on (seed, i) alone.

    Raises:
        UsageError: `count` below 1 or a negative `seed`.
    """
    if count < 1:
        raise UsageError(f"count is {count}: it must be at least 1")
    return torch.stack([torch.randn(latent_dim, generator=runtime.random_stream(seed, row)) for row in range(count)])


@torch.inference_mode()
def decode(model: Generator, latents: Tensor, batch_size: int = 64) -> Tensor:
    """Images, uint8 (count, 1, 28, 28) on the CPU, of latents (count, latent_dim); computed in float32.

    Raises:
        ValueError: the model is in training mode.
    """
    if model.training:
        raise ValueError("the generator is in training mode: call .eval() first")
    device = next(model.parameters()).device
    return torch.cat([to_pixels(model(batch.to(device))).cpu() for batch in latents.split(batch_size)])


def sample(model: Generator, count: int, seed: int = 0) -> Tensor:
    """Generate digits: uint8 (count, 1, 28, 28). Image i depends on (seed, i) alone. Raises UsageError."""
    return decode(model, draw_latents(count, model.latent_dim, seed))


def interpolate(model: Generator, start: int, end: int, steps: int) -> Tensor:
    """Digits along the great circle between the first latents of the seeds `start` and `end`, both included: uint8
    (steps, 1, 28, 28).

    Spherical, since most of a normal distribution's mass lies near a sphere (White 2016,
    https://arxiv.org/abs/1609.04468): a straight line would leave the region that the generator was trained on.

    Raises:
        UsageError: fewer than 2 steps, or a negative seed.
    """
    if steps < 2:
        raise UsageError(f"steps is {steps}: an interpolation has at least its 2 ends")
    first, last = (draw_latents(1, model.latent_dim, seed)[0] for seed in (start, end))
    return decode(model, slerp(first, last, torch.linspace(0, 1, steps)))


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
    """Write uint8 images (count, 1, 28, 28) by the suffix of `path`, each file atomically.

    .png: one grid of `columns`, pixels doubled; .npy: one array; no suffix, or a folder that exists: a folder of
    00000.png, 00001.png, ...

    Raises:
        UsageError: another suffix.
        OutputError: the file cannot be written.
    """
    check_suffix(path)
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix == ".npy":
        files.save_array(path, images.numpy())
    elif suffix == ".png":
        files.save_picture(path, grid(images, columns, scale=2))
    else:
        for number, image in enumerate(images):
            files.save_picture(path / f"{number:05d}.png", image[0].numpy())
        for old in path.glob("[0-9]" * 5 + ".png"):
            if int(old.stem) >= len(images):  # of an earlier, longer run
                files.delete(old)


def check_suffix(path: Path) -> None:
    """Raise UsageError unless `save` can write to `path`."""
    if path.suffix.lower() not in (".png", ".npy", "") and not path.is_dir():
        raise UsageError(f"cannot write {path.name}: end it in .png (a grid), in .npy, or in / (a folder)")
