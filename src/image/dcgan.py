"""The DCGAN (Radford et al. 2016, https://arxiv.org/abs/1511.06434) at MNIST's native 28x28.

Strided convolutions down, transposed convolutions up, no pooling and no hidden dense layer; batch norm, ReLU and tanh
in the generator, LeakyReLU in the discriminator. The sides are 4 -> 7 -> 14 -> 28, so no computed pixel is cropped
away. A `depth` of 4 adds a convolution at 7x7, where it is cheap.

Both networks also receive the digit that is asked for, one-hot. The discriminator is the simplest projection
discriminator (Miyato and Koyama 2018, https://arxiv.org/abs/1802.05637, eq. 3). With `classes` = 0 the one-hot vector
is empty, and the networks are those of the unconditional DCGAN.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from src import checkpoints, paths, runtime
from src.config import ImageConfig


class Generator(nn.Module):
    """Latent (batch, latent_dim), standard normal in training, and one-hot digit (batch, classes) -> image (batch, 1,
    28, 28) in [-1, 1]."""

    def __init__(self, latent_dim: int, classes: int, width: int, depth: int, output: str):
        super().__init__()
        self.latent_dim = latent_dim
        self.classes = classes
        # The paper's first transposed convolution has a single input pixel; it is the same as this matrix product.
        self.project = nn.Linear(latent_dim + classes, 8 * width * 16, bias=False)
        self.layers = nn.Sequential(
            nn.Unflatten(1, (8 * width, 4, 4)),
            nn.BatchNorm2d(8 * width),
            nn.ReLU(inplace=True),
            *_up(8 * width, 4 * width, kernel_size=3),  # (batch, 4 width, 7, 7)
            *(_refine(4 * width) if depth == 4 else ()),
            *_up(4 * width, 2 * width),  # (batch, 2 width, 14, 14)
            *_output(2 * width, output),  # (batch, 1, 28, 28)
            nn.Tanh(),
        )

    def forward(self, latents: Tensor, one_hot: Tensor) -> Tensor:
        """Images (batch, 1, 28, 28) in [-1, 1] of latents (batch, latent_dim) and digits (batch, classes)."""
        # The factor gives the digit's numbers the mean square of the latent's, 1.
        return self.layers(self.project(torch.cat([latents, one_hot * self.classes**0.5], dim=1)))


class Discriminator(nn.Module):
    """Image (batch, 1, 28, 28) in [-1, 1] and one-hot digit (batch, classes) -> logit (batch,), positive for real."""

    def __init__(self, classes: int, width: int, depth: int, norm: str):
        super().__init__()
        outer_norm = "none" if norm == "batch" else norm  # the paper uses no batch norm in the input and output layer
        self.layers = nn.Sequential(
            *_down(1, width, outer_norm),  # (batch, width, 14, 14)
            *_down(width, 2 * width, norm),  # (batch, 2 width, 7, 7)
            *(_same(2 * width, norm) if depth == 4 else ()),
            *_down(2 * width, 4 * width, norm),  # (batch, 4 width, 3, 3)
            *_with_norm(nn.Conv2d(4 * width, 1 + classes, kernel_size=3), outer_norm),  # (batch, 1 + classes, 1, 1)
            nn.Flatten(),
        )

    def forward(self, images: Tensor, one_hot: Tensor) -> Tensor:
        """Logits (batch,) of images (batch, 1, 28, 28) as digits (batch, classes): the output that all digits share,
        plus that of the asked digit."""
        outputs = self.layers(images)
        return outputs[:, 0] + (outputs[:, 1:] * one_hot).sum(dim=1)


def one_hot(digits: Tensor, classes: int) -> Tensor:
    """One-hot vectors, float32 (batch, classes), of digits, int64 (batch,). With no classes, (batch, 0)."""
    return (digits[:, None] == torch.arange(classes, device=digits.device)).float()


def _up(inputs: int, outputs: int, kernel_size: int = 4) -> list[nn.Module]:
    """Doubles height and width; with a kernel of 3, to one less than the double."""
    convolution = nn.ConvTranspose2d(inputs, outputs, kernel_size, stride=2, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _refine(channels: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


def _output(inputs: int, kind: str) -> list[nn.Module]:
    """From 14x14 to the image at 28x28."""
    if kind == "transposed":
        return [nn.ConvTranspose2d(inputs, 1, kernel_size=4, stride=2, padding=1)]
    return [*_up(inputs, inputs // 2), nn.Conv2d(inputs // 2, 1, kernel_size=3, padding=1)]


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
    generator = Generator(
        config.latent_dim, config.classes, config.generator_width, config.generator_depth, config.generator_output
    )
    generator.apply(_initialise)
    return generator


def build_discriminator(config: ImageConfig) -> Discriminator:
    """A discriminator whose weights are drawn from the global random state."""
    discriminator = Discriminator(
        config.classes, config.discriminator_width, config.discriminator_depth, config.discriminator_norm
    )
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
