"""Shared by the tests of reconstruction and generation: a small model and a sound."""

import numpy as np
import pytest
import torch

from src.audio import vae
from src.config import AudioConfig

RATE = 22050
SMALL = AudioConfig(mel_bands=40, latent_dim=4, mel_channels=4, mel_hidden=16, fine_channels=6)


@pytest.fixture(scope="module")
def model() -> vae.StemVAE:
    """Untrained, with every weight at random, so that nothing is a special case."""
    torch.manual_seed(1)
    model = vae.StemVAE(SMALL).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.1)
    torch.nn.init.constant_(model.mel.draw[-1].bias, 1.2)  # decodes to about -20 dB: well above the water level
    return model


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    random = np.random.default_rng(0)
    times = np.arange(300_000) / RATE
    return (
        np.sin(2 * np.pi * 220 * times) * 0.2 * (1 + np.sin(2 * times)) + 0.02 * random.standard_normal(300_000)
    ).astype(np.float32)
