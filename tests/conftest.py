"""Shared by all tests: a small data set, a small configuration, fixed seeds."""

import pytest
import torch

from src import runtime
from src.config import ImageConfig
from src.image.data import Digits


@pytest.fixture(autouse=True)
def fixed_seed(monkeypatch):
    """The same numbers on every machine: a fixed seed, on the CPU."""
    torch.manual_seed(0)
    monkeypatch.setattr(runtime, "device", lambda: torch.device("cpu"))


@pytest.fixture
def small_config() -> ImageConfig:
    return ImageConfig(
        latent_dim=8,
        generator_width=4,
        discriminator_width=4,
        epochs=6,
        batch_size=16,
        checkpoint_every=2,
        r1_interval=2,
    )


@pytest.fixture
def blobs() -> Digits:
    """64 images of one bright square each, at a place that depends on the label."""
    images = torch.zeros(64, 1, 28, 28, dtype=torch.uint8)
    labels = torch.arange(64) % 10
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * label : 2 * label + 8, 10:18] = 255
    return Digits(images, labels, "blobs")
