"""From a trained generator to digits: samples, interpolations, files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from src import checkpoints, paths, runtime
from src.config import ImageConfig
from src.image import dcgan
from src.image.data import to_pixels


def load_generator(path: Path | None = None) -> dcgan.Generator:
    """A generator in evaluation mode, on this process's device.

    `path` is published weights (.safetensors) or a training state (.pt), of which the averaged generator is taken;
    None is the committed model. Raises CheckpointError for a file that is missing, damaged or no generator.
    """
    path = Path(path) if path else paths.IMAGE.weights
    weights, description = checkpoints.load_average(path)
    try:
        generator = dcgan.build_generator(ImageConfig(**description["config"]))
        generator.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as error:
        raise checkpoints.CheckpointError(f"{paths.relative(path)} holds no generator of this project") from error
    return generator.eval().to(runtime.device(), memory_format=torch.channels_last)


def draw_latents(count: int, latent_dim: int, seed: int = 0) -> Tensor:
    """Standard normal latents (count, latent_dim). Row i depends on (seed, i) alone, never on `count`."""
    if count < 1:
        raise ValueError(f"count is {count}: it must be at least 1")
    if seed < 0:
        raise ValueError(f"seed is {seed}: it must not be negative")
    return torch.stack([torch.randn(latent_dim, generator=runtime.random_stream(seed, row)) for row in range(count)])


@torch.inference_mode()
def decode(generator: dcgan.Generator, latents: Tensor, batch_size: int = 64) -> Tensor:
    """Images, uint8 (count, 1, 28, 28) on the CPU, of latents (count, latent_dim), in float32."""
    if generator.training:
        raise ValueError("the generator is in training mode: call .eval() first")
    where = next(generator.parameters()).device
    return torch.cat([to_pixels(generator(batch.to(where))).cpu() for batch in latents.split(batch_size)])


def sample(generator: dcgan.Generator, count: int, seed: int = 0) -> Tensor:
    """Draw `count` digits: uint8 (count, 1, 28, 28). Image i depends on (seed, i) alone."""
    return decode(generator, draw_latents(count, generator.latent_dim, seed))


def interpolate(generator: dcgan.Generator, start: int, end: int, steps: int) -> Tensor:
    """Digits along the great circle between the first latents of two seeds: uint8 (steps, 1, 28, 28), ends included.

    Spherical, as most of a normal distribution's mass lies near a sphere (White 2016, https://arxiv.org/abs/1609.04468):
    a straight line would leave the region that the generator was trained on.
    """
    if steps < 2:
        raise ValueError(f"steps is {steps}: an interpolation has at least its 2 ends")
    first, last = (draw_latents(1, generator.latent_dim, seed)[0] for seed in (start, end))
    return decode(generator, slerp(first, last, torch.linspace(0, 1, steps)))


def slerp(first: Tensor, last: Tensor, positions: Tensor) -> Tensor:
    """Points (count, dim) at `positions` in [0, 1] on the arc from `first` to `last`, lengths interpolated alike."""
    angle = torch.arccos(torch.clamp(torch.dot(first / first.norm(), last / last.norm()), -1, 1))
    if torch.sin(angle) < 1e-6:  # parallel: the arc is the line
        return torch.lerp(first, last, positions[:, None])
    weights = torch.sin(torch.stack([1 - positions, positions]) * angle) / torch.sin(angle)
    return weights[0][:, None] * first + weights[1][:, None] * last


def grid(images: Tensor, columns: int, scale: int = 1) -> np.ndarray:
    """Tile uint8 images (count, 1, 28, 28) row by row: uint8 (height, width), each pixel `scale` times enlarged."""
    tiled = make_grid(images, nrow=columns, padding=1)[0].numpy()
    return tiled.repeat(scale, axis=0).repeat(scale, axis=1)


def save_grid(images: Tensor, path: Path, columns: int, scale: int = 2) -> None:
    """Write a grid as a greyscale PNG, atomically."""
    picture = Image.fromarray(grid(images, columns, scale))
    checkpoints.write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))


def save_images(images: Tensor, folder: Path) -> None:
    """Write single PNG files 00000.png, 00001.png, ... into `folder`."""
    for number, image in enumerate(images):
        picture = Image.fromarray(image[0].numpy())
        checkpoints.write_atomically(folder / f"{number:05d}.png", lambda path, p=picture: p.save(path, format="PNG"))


def save_array(images: Tensor, path: Path) -> None:
    """Write the images as one uint8 array (count, 1, 28, 28) in NumPy's .npy format."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.save(file, images.numpy())

    checkpoints.write_atomically(path, write)
