"""The reference digit classifier; its features define the `mnist` metrics.

Inception's features come from photographs. Features of a network that reads digits describe digits, as LeNet's did in
the first scores on MNIST.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from src import checkpoints, classifiers, paths, runtime
from src.classifiers import convolution_block
from src.config import ClassifierConfig
from src.image.data import Digits

FEATURES = 128


class Classifier(classifiers.ReferenceClassifier):
    """Images (batch, 1, 28, 28) in [0, 1] -> 10 logits, through 128 penultimate features."""

    def __init__(self, config: ClassifierConfig):
        super().__init__()
        width = config.width
        self.convolutions = nn.Sequential(
            *convolution_block(1, width),
            *convolution_block(width, width),
            nn.MaxPool2d(2),  # (batch, width, 14, 14)
            *convolution_block(width, 2 * width),
            *convolution_block(2 * width, 2 * width),
            nn.MaxPool2d(2),  # (batch, 2 width, 7, 7)
            *convolution_block(2 * width, 4 * width),
            nn.MaxPool2d(2),  # (batch, 4 width, 3, 3)
            nn.Flatten(),
        )
        self.penultimate = nn.Sequential(
            nn.Linear(4 * width * 9, FEATURES, bias=False), nn.BatchNorm1d(FEATURES), nn.ReLU(inplace=True)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(FEATURES, 10)

    def features(self, inputs: Tensor) -> Tensor:
        """Penultimate activations (batch, 128), non-negative."""
        return self.penultimate(self.convolutions(inputs))


def load_classifier(path: Path = paths.IMAGE.classifier) -> Classifier:
    """The published classifier, in evaluation mode, on this process's device. Raises CheckpointError."""
    return checkpoints.load_network(path, ClassifierConfig, Classifier, "digit classifier").to(runtime.device())


def describe(classifier: Classifier, images: Tensor, batch_size: int = 500) -> tuple[Tensor, Tensor]:
    """Features (count, 128) and logits (count, 10), float32 on the CPU, of uint8 images (count, 1, 28, 28).

    Raises:
        ValueError: another type or shape, or a classifier in training mode.
    """
    if images.dtype != torch.uint8 or images.shape[1:] != (1, 28, 28):
        raise ValueError(f"images are {images.dtype} {tuple(images.shape)}: expected uint8 (count, 1, 28, 28)")
    return classifiers.describe(classifier, images.float() / 255, batch_size)


def accuracy(classifier: Classifier, digits: Digits) -> float:
    """Share of `digits` whose label has the largest logit."""
    return classifiers.accuracy(describe(classifier, digits.images)[1], digits.labels)


def digit_shares(logits: Tensor) -> list[float]:
    """Share of the images, given their logits (count, 10), that are read as 0, 1, ... 9."""
    return (logits.argmax(1).bincount(minlength=logits.shape[1]) / len(logits)).tolist()


def train(config: ClassifierConfig, digits: Digits, progress: bool = True) -> Classifier:
    """Train on `digits` with small random rotations, scalings, shears and shifts. Returned in evaluation mode."""
    steps = config.epochs * math.ceil(len(digits) / config.batch_size)
    with runtime.seeded(config.seed):
        classifier = Classifier(config).to(runtime.device(), memory_format=torch.channels_last)
        classifiers.fit(classifier, _batches(config, digits), steps, config, progress)
    return classifier


def _batches(config: ClassifierConfig, digits: Digits) -> Iterator[tuple[Tensor, Tensor]]:
    for epoch in range(config.epochs):
        stream = runtime.random_stream(config.seed, epoch)
        for rows in torch.randperm(len(digits), generator=stream).split(config.batch_size):
            yield _distort(digits.images[rows].float() / 255, stream), digits.labels[rows]


def _distort(images: Tensor, stream: torch.Generator) -> Tensor:
    """Apply a random affine map to each image: +-12 degrees, +-10 % in scale, +-0.15 of shear, +-2 pixels."""
    limits = torch.tensor([math.radians(12), 0.1, 0.15, 2 / 14, 2 / 14])[:, None]
    angle, scale, shear, right, down = (torch.rand(5, len(images), generator=stream) * 2 - 1) * limits
    cosine, sine = (1 + scale) * torch.cos(angle), (1 + scale) * torch.sin(angle)
    rows = torch.stack([cosine, shear * cosine - sine, right, sine, shear * sine + cosine, down], dim=1)
    positions = functional.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
    return functional.grid_sample(images, positions, align_corners=False)
