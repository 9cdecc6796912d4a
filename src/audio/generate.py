"""New sound from `z_mel`: samples from its prior, and interpolations between two recordings."""

import math

import numpy as np
import torch
from torch import Tensor

from src import runtime
from src.audio import vae
from src.audio.reconstruct import log_mel_blocks
from src.audio.water_filling import NEPERS_PER_DB, water_level
from src.config import OPERATING_SDR_DB, STEMS
from src.errors import UsageError

MAX_SECONDS = 6  # the causal prior of z_mel diverges in longer sound


def sample(model: vae.StemVAE, stem: str, count: int = 1, seconds: float = 6.0, seed: int = 0) -> np.ndarray:
    """Generate sound of a stem: float32 (count, samples) at the model's sample rate. Sample i depends on (stem, seed,
    i) alone.

    `z_mel` is drawn from its prior, and Griffin-Lim estimates a phase for the spectrogram decoded from it.

    Raises:
        UsageError: an unknown stem, a count below 1, or a duration out of range.
    """
    log_mels = sample_log_mels(model, stem, count, seconds, seed)
    return mel_to_waveform(model, log_mels, int(seconds * model.config.sample_rate))


@torch.inference_mode()
def sample_log_mels(model: vae.StemVAE, stem: str, count: int, seconds: float, seed: int = 0) -> Tensor:
    """Generate log-mel spectrograms (count, frames, bands) in dB of a stem, frame by frame from the prior of `z_mel`.
    Spectrogram i depends on (stem, seed, i) alone. Raises UsageError, as `sample`."""
    if stem not in STEMS:
        raise UsageError(f"unknown stem {stem!r}: use one of {', '.join(STEMS)}")
    config, device = model.config, runtime.device()
    if count < 1 or not 1 / config.sample_rate <= seconds <= MAX_SECONDS:
        raise UsageError(
            f"{count} samples of {seconds} s: ask for at least 1, of up to {MAX_SECONDS} s, since longer ones diverge"
        )
    frames = model.spectrogram.frames(int(seconds * config.sample_rate))
    shape = (math.ceil(frames / vae.STRIDE), config.latent_dim)
    streams = [runtime.random_stream(seed, STEMS.index(stem), row) for row in range(count)]
    noise = torch.stack([torch.randn(shape, generator=stream) for stream in streams]).to(device)
    labels = vae.one_hot_stem(stem, count).to(device)
    latents = noise.new_zeros(count, 0, config.latent_dim)
    for frame in range(shape[0]):
        # The prior of the next frame depends on the last REACH frames; the value of the next frame itself has none.
        context = torch.cat([latents[:, -vae.CausalPrior.REACH :], torch.zeros_like(noise[:, :1])], dim=1)
        prior = model.mel.prior(context, labels)
        latent = vae.Gaussian(prior.mean[:, -1], prior.log_variance[:, -1]).sample(noise[:, frame])
        latent = latent.clamp(*model.latent_range[STEMS.index(stem)])  # beyond it, the prior diverges
        latents = torch.cat([latents, latent[:, None]], dim=1)
    return model.mel.decode(latents, labels, frames)


@torch.inference_mode()
def mel_to_waveform(model: vae.StemVAE, log_mels: Tensor, samples: int) -> np.ndarray:
    """Waveforms, float32 (count, samples), of log-mel spectrograms (count, frames, bands) in dB, by Griffin-Lim."""
    return model.spectrogram.griffin_lim(log_mels, samples).cpu().numpy()


@torch.inference_mode()
def interpolate(model: vae.StemVAE, first: Tensor, second: Tensor, stems: tuple[str, str], steps: int = 5) -> Tensor:
    """Log-mel spectrograms (steps, frames, bands) in dB on the straight line between the `z_mel` of two waveforms
    (samples,), both ends included, trimmed to the shorter one. The stem's label is interpolated too.

    Raises:
        UsageError: fewer than 2 steps.
    """
    if steps < 2:
        raise UsageError(f"steps is {steps}: an interpolation has at least its 2 ends")
    samples = min(len(first), len(second))
    latents, labels = [], []
    for waveform, stem in zip((first, second), stems, strict=True):
        log_mel = torch.cat(list(log_mel_blocks(model, waveform[None, :samples])), dim=1)
        label = vae.one_hot_stem(stem).to(log_mel)
        level = water_level(log_mel, log_mel.new_full((1,), OPERATING_SDR_DB[STEMS.index(stem)]), model.spectrogram)
        latents.append(model.mel.encode(log_mel, label, level / NEPERS_PER_DB).mean)
        labels.append(label)
    positions = torch.linspace(0, 1, steps, device=latents[0].device)
    between = torch.lerp(*latents, positions[:, None, None])
    return model.mel.decode(between, torch.lerp(*labels, positions[:, None]), log_mel.shape[1])
