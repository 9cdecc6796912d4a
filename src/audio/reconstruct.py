"""Reconstruct a recording of any length: encode it, sample both latents, and decode, block by block."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from src import runtime
from src.audio import vae
from src.audio.sound_files import pad_or_trim, resample
from src.audio.spectrogram import imdct
from src.audio.water_filling import fill_variance, water_level
from src.config import OPERATING_SDR_DB, STEMS, AudioConfig
from src.errors import UsageError

BLOCK = 2**19  # samples coded at once: 24 s, a few hundred MB
ALIGNMENT = 2**13  # samples: a multiple of every frame length. Blocks start at multiples of it; noise is drawn for each
MAX_PEAK = 30.0  # of a waveform with full scale 1; a larger one has another scale
GUESS_SAMPLES = 2**17  # length of the excerpt by which an unnamed stem is guessed
GUESS_SDR_DB = OPERATING_SDR_DB[STEMS.index("other")]
MEL_NOISE, FINE_NOISE, FILL_NOISE = range(3)  # kinds of noise, each with a random stream of its own


@dataclass(frozen=True)
class Reconstruction:
    """Reconstructed sound, and the rate of the latents that it was decoded from."""

    waveform: np.ndarray  # float32, of the input's shape and sample rate
    rate: float  # kbit/s: KL divergence of both latents' posteriors from their priors
    mel_rate: float  # kbit/s: the part of `z_mel`
    stem: str  # the stem as which it was coded
    decoded_mel: np.ndarray  # float32 (frames, bands) in dB, or (channels, frames, bands): decoded from `z_mel`


@torch.inference_mode()
def reconstruct(
    model: vae.StemVAE,
    waveform: np.ndarray,
    sample_rate: int,
    stem: str | None = None,
    sdr_db: float | None = None,
    fill: float = 0.0,
    seed: int = 0,
    sampled: bool = True,
) -> Reconstruction:
    """Encode sound into both latents and decode it again.

    `waveform`: (samples,) or (channels, samples) at `sample_rate` Hz, floats with full scale 1 or signed integers with
    the full scale of their type. Channels are coded one by one; a channel of zeros gives zeros.
    `stem`: the instrument, one of `STEMS`; None takes the stem with the lowest negative ELBO.
    `sdr_db`: the signal-to-distortion ratio that reverse water-filling aims for, from 0 to 60 dB; None is the recorded
    operating point of the stem.
    `fill`: amplitude, from 0 to 1, of the noise that replaces the variance missing from the estimate, most of it below
    the water level. 0 gives the least squared error, 1 restores the full variance.
    `sampled`: True draws the latents from their posteriors, as the rate assumes. False takes the posteriors' means,
    which carry more information than that rate.

    The result does not depend on the division of a long recording into blocks.

    Raises:
        UsageError: an empty waveform, values that are not finite or too large, or an argument out of range.
    """
    sound = _check_arguments(waveform, stem, sdr_db, fill)
    model_rate = model.config.sample_rate
    channels = torch.from_numpy(np.stack([resample(channel, sample_rate, model_rate) for channel in sound]))
    channels = pad(channels, (0, max(0, 1 - channels.shape[1])))
    stem = stem or guess_stem(model, channels, seed)
    stem_index = STEMS.index(stem)
    log_mel = log_mel_of_recording(model, channels)
    target_db = OPERATING_SDR_DB[stem_index] if sdr_db is None else sdr_db
    level = water_level(log_mel, log_mel.new_full((len(channels),), target_db), model.spectrogram)

    blocks = list(reconstruct_blocks(model, channels, log_mel, stem_index, level, fill, seed, sampled))
    decoded = torch.cat([block.waveform for block in blocks], dim=1)
    decoded = torch.where((channels == 0).all(dim=1, keepdim=True), 0.0, decoded).numpy()
    decoded_mel = torch.cat([block.decoded_mel for block in blocks], dim=1).numpy()
    restored = [pad_or_trim(resample(channel, model_rate, sample_rate), sound.shape[1]) for channel in decoded]
    kbit_s = 1 / (vae.NATS_PER_KBIT * sound.shape[1] / sample_rate)  # kbit/s that one nat makes
    mel_nats, fine_nats = (sum(getattr(block, name) for block in blocks) for name in ("mel_nats", "fine_nats"))
    return Reconstruction(
        np.stack(restored).reshape(np.shape(waveform)),
        (mel_nats + fine_nats) * kbit_s,
        mel_nats * kbit_s,
        stem,
        decoded_mel[0] if np.ndim(waveform) == 1 else decoded_mel,
    )


def _check_arguments(waveform: np.ndarray, stem: str | None, sdr_db: float | None, fill: float) -> np.ndarray:
    """The waveform as float32 (channels, samples), integers scaled by the range of their type. Raises UsageError."""
    waveform = np.asarray(waveform)
    if np.issubdtype(waveform.dtype, np.signedinteger):
        waveform = waveform / -float(np.iinfo(waveform.dtype).min)
    sound = np.atleast_2d(waveform.astype(np.float32))
    if sound.ndim != 2 or sound.shape[-1] < 1:
        raise UsageError(f"a waveform of shape {np.shape(waveform)} is not (samples,) or (channels, samples)")
    if not np.isfinite(sound).all():
        raise UsageError("the waveform holds values that are not finite")
    if (peak := float(np.abs(sound).max())) > MAX_PEAK:
        raise UsageError(
            f"the waveform has a peak of {peak:.0f}, but full scale is 1: "
            "divide samples in the range of 16-bit integers by 32768"
        )
    if stem is not None and stem not in STEMS:
        raise UsageError(f"unknown stem {stem!r}: use one of {', '.join(STEMS)}")
    if not 0 <= fill <= 1:
        raise UsageError(f"fill is {fill}: it must lie between 0 and 1")
    if sdr_db is not None and not 0 <= sdr_db <= 60:
        raise UsageError(f"sdr_db is {sdr_db}: it must lie between 0 and 60 dB")
    return sound


@dataclass(frozen=True)
class Block:
    """The decoded samples of one block, and the information in its latents."""

    waveform: Tensor  # (channels, samples)
    decoded_mel: Tensor  # (channels, frames, bands) in dB
    mel_nats: float
    fine_nats: float


def reconstruct_blocks(
    model: vae.StemVAE,
    channels: Tensor,
    log_mel: Tensor,
    stem_index: int,
    level: Tensor,
    fill: float = 0.0,
    seed: int = 0,
    sampled: bool = True,
    block: int = BLOCK,
) -> Iterator[Block]:
    """Code waveforms (channels, samples) with the log-mel spectrograms (channels, frames, bands) at water levels ln D
    (channels,), in blocks of `block` samples, a multiple of `ALIGNMENT`.

    Blocks overlap by the receptive field and noise depends on absolute position, so the output does not depend on the
    block size.
    """
    samples = channels.shape[1]
    config, device = model.config, level.device
    bins, hop = config.mdct_bins[stem_index], config.mel_hop
    before, after = _context(config, stem_index)
    for begin in range(0, samples, block):
        # Code the block together with its context.
        end = min(begin + block, samples)
        first, last = max(0, begin - before), min(samples, end + after)
        part = channels[:, first:last].to(device)
        part_mel = log_mel[:, first // hop :][:, : model.spectrogram.frames(part.shape[1])]
        noise = _latent_noise(config, part, bins, first, seed if sampled else None)
        output = model(part, part_mel, stem_index, level, noise)

        # Replace the missing variance by noise.
        decoded = imdct(output.coefficients, part.shape[1])
        if fill:
            deviation = fill * fill_variance(output.missing, output.decoded_mel, model.spectrogram).sqrt()
            white = _position_noise(seed, FILL_NOISE, first, deviation.shape, hop).to(device)
            decoded = decoded + imdct(deviation * white, part.shape[1])

        # Keep what belongs to the block itself; the last block keeps its last, incomplete frame.
        inside = (begin - first, None if end == samples else end - first)
        yield Block(
            decoded[:, begin - first : end - first].cpu(),
            _frames_inside(output.decoded_mel, inside, hop).cpu(),
            _frames_inside(output.mel_divergence, inside, hop * vae.STRIDE).sum().item(),
            _frames_inside(output.fine_divergence, inside, bins).sum().item(),
        )


def _frames_inside(frames: Tensor, inside: tuple[int, int | None], hop: int) -> Tensor:
    """The frames (channels, frames, ...), `hop` samples apart, that start in the range `inside` of samples."""
    begin, end = inside
    return frames[:, begin // hop : None if end is None else end // hop]


def _context(config: AudioConfig, stem_index: int) -> tuple[int, int]:
    """Samples of context needed before and after a block, rounded up to `ALIGNMENT`. Upper bounds:

    - decoded mel: 10 latent frames on each side
    - `z_fine`: the context of the decoded mel, plus `MEMORY` + 8 MDCT frames before and 8 after
    - prior of `z_mel`: `CausalPrior.REACH` + 6 latent frames before
    """
    bins, latent_hop = config.mdct_bins[stem_index], config.mel_hop * vae.STRIDE
    before = max((vae.MEMORY + 8) * bins + 10 * latent_hop, (vae.CausalPrior.REACH + 6) * latent_hop)
    after = 8 * bins + 10 * latent_hop
    return math.ceil(before / ALIGNMENT) * ALIGNMENT, math.ceil(after / ALIGNMENT) * ALIGNMENT


def _latent_noise(config: AudioConfig, part: Tensor, bins: int, first: int, seed: int | None) -> tuple[Tensor, Tensor]:
    """Noise for both latents of `part` (channels, samples), which starts at sample `first`; zeros without a seed."""
    channels, samples = part.shape
    latent_frames = math.ceil((samples // config.mel_hop + 1) / vae.STRIDE)
    mel_shape = (channels, latent_frames, config.latent_dim)
    fine_shape = (channels, math.ceil(samples / bins) + 1, bins)
    if seed is None:
        return part.new_zeros(mel_shape), part.new_zeros(fine_shape)
    mel_noise = _position_noise(seed, MEL_NOISE, first, mel_shape, config.mel_hop * vae.STRIDE)
    return mel_noise.to(part), _position_noise(seed, FINE_NOISE, first, fine_shape, bins).to(part)


def _position_noise(seed: int, kind: int, first: int, shape: tuple[int, int, int], hop: int) -> Tensor:
    """Standard normal noise of `shape` (channels, frames, width) that depends only on (seed, kind, absolute frame).

    Frames are `hop` samples apart, and the first one is at sample `first`, a multiple of `ALIGNMENT`.
    """
    channels, frames, width = shape
    frames_each = ALIGNMENT // hop
    start = first // ALIGNMENT
    pieces = [
        torch.randn(channels, frames_each, width, generator=runtime.random_stream(seed, kind, piece))
        for piece in range(start, start + math.ceil(frames / frames_each))
    ]
    return torch.cat(pieces, dim=1)[:, :frames]


def log_mel_of_recording(model: vae.StemVAE, channels: Tensor) -> Tensor:
    """Log-mel spectrograms (channels, frames, bands) in dB of waveforms (channels, samples), computed block by block on
    this process's device."""
    hop, samples = model.config.mel_hop, channels.shape[1]
    parts = []
    for begin in range(0, samples, BLOCK):
        first, last = max(0, begin - ALIGNMENT), min(samples, begin + BLOCK + ALIGNMENT)
        part = model.log_mel(channels[:, first:last].to(runtime.device()))
        end = None if last == samples else (begin + BLOCK - first) // hop
        parts.append(part[:, (begin - first) // hop : end])
        if last == samples:
            break
    return torch.cat(parts, dim=1)


@torch.inference_mode()
def guess_stem(model: vae.StemVAE, channels: Tensor, seed: int = 0) -> str:
    """The stem whose model has the lowest negative ELBO on the loudest seconds of waveforms (channels, samples)."""
    energy = channels.square().sum(0).cumsum(0)
    starts = range(0, max(1, channels.shape[1] - GUESS_SAMPLES + 1), ALIGNMENT)
    loudest = max(starts, key=lambda start: energy[min(start + GUESS_SAMPLES, len(energy)) - 1] - energy[start])
    excerpt = channels[:, loudest : loudest + GUESS_SAMPLES].to(runtime.device())
    log_mel = model.log_mel(excerpt)
    level = water_level(log_mel, log_mel.new_full((len(excerpt),), GUESS_SDR_DB), model.spectrogram)
    costs = {}
    for stem_index, stem in enumerate(STEMS):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            output = model(excerpt, log_mel, stem_index, level)
        nats = output.mel_divergence.sum() + output.fine_divergence.sum() + output.distortion.sum() / 2
        costs[stem] = nats.item()
    return min(costs, key=costs.__getitem__)
