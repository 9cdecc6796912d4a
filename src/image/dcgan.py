"""The DCGAN (Radford et al. 2016, https://arxiv.org/abs/1511.06434) at MNIST's native 28x28.

Strided convolutions down, transposed convolutions up, no pooling and no hidden dense layer; batch norm, ReLU and tanh
in the generator, LeakyReLU in the discriminator. The sides are 4 -> 7 -> 14 -> 28, so no computed pixel is cropped
away. One more convolution in each network adds depth at 7x7, where it is cheap.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from src import checkpoints, paths, runtime
from src.config import ImageConfig


class Generator(nn.Module):
    """Latent (batch, latent_dim), standard normal -> image (batch, 1, 28, 28) in [-1, 1]."""

    def __init__(self, latent_dim: int, width: int, depth: int):
        super().__init__()
        self.latent_dim = latent_dim
        channels, side = (4 * width, 7) if depth == 2 else (8 * width, 4)
        # The paper's first transposed convolution has a single input pixel; it is the same as this matrix product.
        self.project = nn.Linear(latent_dim, channels * side**2, bias=False)
        self.layers = nn.Sequential(
            nn.Unflatten(1, (channels, side, side)),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            *(_up(8 * width, 4 * width, kernel_size=3) if depth >= 3 else ()),  # (batch, 4 width, 7, 7)
            *(_refine(4 * width) if depth >= 4 else ()),
            *_up(4 * width, 2 * width),  # (batch, 2 width, 14, 14)
            *_up(2 * width, width),  # (batch, width, 28, 28)
            nn.Conv2d(width, 1, kernel_size=3, padding=1),  # (batch, 1, 28, 28)
            nn.Tanh(),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Images (batch, 1, 28, 28) in [-1, 1] of latents (batch, latent_dim)."""
        return self.layers(self.project(latents))


class Discriminator(nn.Module):
    """Image (batch, 1, 28, 28) in [-1, 1] -> logit (batch,), positive for real."""

    def __init__(self, width: int, depth: int, norm: str):
        super().__init__()
        outer_norm = "none" if norm == "batch" else norm  # the paper uses no batch norm in the input and output layer
        self.layers = nn.Sequential(
            *_down(1, width, outer_norm),  # (batch, width, 14, 14)
            *_down(width, 2 * width, norm),  # (batch, 2 width, 7, 7)
            *(_same(2 * width, norm) if depth >= 4 else ()),
            *_down(2 * width, 4 * width, norm),  # (batch, 4 width, 3, 3)
            *_with_norm(nn.Conv2d(4 * width, 1, kernel_size=3), outer_norm),  # (batch, 1, 1, 1)
            nn.Flatten(0),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch,) of images (batch, 1, 28, 28)."""
        return self.layers(images)


def _up(inputs: int, outputs: int, kernel_size: int = 4) -> list[nn.Module]:
    """Doubles height and width; with a kernel of 3, to one less than the double."""
    convolution = nn.ConvTranspose2d(inputs, outputs, kernel_size, stride=2, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _refine(channels: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


def _down(inputs: int, outputs: int, norm: str) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=4, stride=2, padding=1)
    return [*_with_norm(convolution, norm), nn.LeakyReLU(0.2, inplace=True)]


def _same(channels: int, norm: str) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
    return [*_with_norm(convolution, norm), nn.LeakyReLU(0.2, inplace=True)]


def _with_norm(convolution: nn.Conv2d, norm: str) -> list[nn.Module]:
    if norm == "spectral":
        return [spectral_norm(convolution)]
    return [convolution, nn.BatchNorm2d(convolution.out_channels)] if norm == "batch" else [convolution]


def build_generator(config: ImageConfig) -> Generator:
    """A generator whose weights are drawn from the global random state."""
    generator = Generator(config.latent_dim, config.generator_width, config.generator_depth)
    generator.apply(_initialise)
    return generator


def build_discriminator(config: ImageConfig) -> Discriminator:
    """A discriminator whose weights are drawn from the global random state."""
    discriminator = Discriminator(config.discriminator_width, config.discriminator_depth, config.discriminator_norm)
    discriminator.apply(_initialise)
    return discriminator


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    """Draw weights from N(0, 0.02) and batch-norm gains from N(1, 0.02), as in the paper's section 4."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def load_model(path: Path | None = None) -> Generator:
    """A generator in evaluation mode, on this process's device.

    `path` is published weights (.safetensors) or a training state (.pt), of which the averaged generator is taken; None
    is the published generator.

    Raises:
        CheckpointError: the file is missing, damaged or holds no generator of this project.
    """
    path = Path(path or paths.IMAGE.weights)
    generator = checkpoints.load_network(path, ImageConfig, build_generator, "generator")
    return generator.to(runtime.device(), memory_format=torch.channels_last)
