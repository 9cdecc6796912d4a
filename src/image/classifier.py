"""The reference digit classifier: the eyes behind the `mnist` metrics.

Inception's features come from photographs; features of a network that reads digits see digits (as LeNet did for the
first MNIST scores). Weights and accuracy are committed, so the metrics mean the same everywhere and work offline.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from src import checkpoints, classification, paths, runtime
from src.config import ClassifierConfig
from src.image.data import Digits

FEATURES = 128


class Classifier(nn.Module):
    """Image (batch, 1, 28, 28) in [0, 1] -> 10 logits, through 128 penultimate features."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.convolutions = nn.Sequential(
            *_block(1, width),
            *_block(width, width),
            nn.MaxPool2d(2),  # (batch, width, 14, 14)
            *_block(width, 2 * width),
            *_block(2 * width, 2 * width),
            nn.MaxPool2d(2),  # (batch, 2 width, 7, 7)
            *_block(2 * width, 4 * width),
            nn.MaxPool2d(2),  # (batch, 4 width, 3, 3)
            nn.Flatten(),
        )
        self.penultimate = nn.Sequential(
            nn.Linear(4 * width * 9, FEATURES, bias=False), nn.BatchNorm1d(FEATURES), nn.ReLU(inplace=True)
        )
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(FEATURES, 10)

    def features(self, images: Tensor) -> Tensor:
        """Penultimate activations (batch, 128), non-negative."""
        return self.penultimate(self.convolutions(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.dropout(self.features(images)))


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def load_classifier(path: Path = paths.IMAGE.classifier) -> Classifier:
    """The committed classifier, in evaluation mode, on this process's device."""
    weights, description = checkpoints.load_weights(path)
    config = ClassifierConfig(**description["config"])
    classifier = Classifier(config.width, config.dropout)
    classifier.load_state_dict(weights)
    return classifier.eval().to(runtime.device())


@torch.inference_mode()
def describe(classifier: Classifier, images: Tensor, batch_size: int = 500) -> tuple[Tensor, Tensor]:
    """Features (count, 128) and logits (count, 10), float32 on the CPU, of uint8 images (count, 1, 28, 28)."""
    if images.dtype != torch.uint8 or images.shape[1:] != (1, 28, 28):
        raise ValueError(f"images are {images.dtype} {tuple(images.shape)}: expected uint8 (count, 1, 28, 28)")
    if classifier.training:
        raise ValueError("the classifier is in training mode: call .eval() first")
    where = next(classifier.parameters()).device
    features = [classifier.features(batch.to(where).float() / 255) for batch in images.split(batch_size)]
    features = torch.cat(features)
    return features.cpu(), classifier.output(features).cpu()


def accuracy(classifier: Classifier, digits: Digits) -> float:
    """Share of `digits` whose label has the largest logit."""
    _, logits = describe(classifier, digits.images)
    return (logits.argmax(1) == digits.labels).double().mean().item()


def train(config: ClassifierConfig, digits: Digits, progress: bool = True) -> Classifier:
    """Train on `digits` with small random rotations, scalings, shears and shifts; returned in evaluation mode."""
    where = runtime.device()
    torch.manual_seed(config.seed)
    classifier = Classifier(config.width, config.dropout).to(where, memory_format=torch.channels_last)
    steps = config.epochs * math.ceil(len(digits) / config.batch_size)
    classification.fit(classifier, _batches(config, digits), steps, config, progress)
    return classifier


def _batches(config: ClassifierConfig, digits: Digits) -> Iterator[tuple[Tensor, Tensor]]:
    for epoch in range(config.epochs):
        stream = runtime.random_stream(config.seed, epoch)
        for rows in torch.randperm(len(digits), generator=stream).split(config.batch_size):
            yield _distort(digits.images[rows].float() / 255, stream), digits.labels[rows]


def _distort(images: Tensor, stream: torch.Generator) -> Tensor:
    """A random affine map for each image: +-12 degrees, +-10 % in scale, +-0.15 of shear, +-2 pixels."""
    angle, scale, shear, right, down = (torch.rand(5, len(images), generator=stream) * 2 - 1) * torch.tensor(
        [math.radians(12), 0.1, 0.15, 2 / 14, 2 / 14]
    )[:, None]
    cosine, sine = (1 + scale) * torch.cos(angle), (1 + scale) * torch.sin(angle)
    rows = torch.stack([cosine, shear * cosine - sine, right, sine, shear * sine + cosine, down], dim=1)
    grid = functional.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)
