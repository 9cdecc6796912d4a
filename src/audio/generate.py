"""From a trained model to sound: regenerate a recording, sample new stems, walk between two recordings."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from src import checkpoints, paths, runtime
from src.audio import spectrogram, vae
from src.audio.data import STEMS, resample
from src.config import OPERATING_SDR_DB, AudioConfig

PIECE = 2**19  # samples coded at once: 24 s, a few hundred MB
UNIT = 2**13  # samples, a multiple of every frame: pieces begin and end on multiples of it, and noise is drawn for each
TRIAL = 2**17  # samples on which an unnamed stem is guessed


@dataclass(frozen=True)
class Reconstruction:
    """Regenerated sound, and the rate of the latents that it was decoded from."""

    waveform: np.ndarray  # float32, of the input's shape and sample rate
    rate: float  # kbit/s, KL divergence of both latents' posteriors from their priors
    mel_rate: float  # kbit/s, the part of `z_mel`
    stem: str  # the stem it was coded as
    decoded_mel: np.ndarray  # float32 (frames, bands) in dB, or (channels, frames, bands): what `z_mel` says


def load_model(path: Path | None = None) -> vae.StemVAE:
    """A model in evaluation mode, on this process's device.

    `path` is published weights (.safetensors) or a training state (.pt), of which the averaged model is taken; None is
    the committed model. Raises CheckpointError for a file that is missing, damaged or no such model.
    """
    runtime.keep_freed_memory()
    path = Path(path) if path else paths.AUDIO.weights
    weights, description = checkpoints.load_average(path)
    try:
        model = vae.StemVAE(AudioConfig(**description["config"]))
        model.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as error:
        raise checkpoints.CheckpointError(f"{paths.relative(path)} holds no stem VAE of this project") from error
    return model.eval().to(runtime.device(), memory_format=torch.channels_last)


@torch.inference_mode()
def reconstruct(
    model: vae.StemVAE,
    waveform: np.ndarray,
    sample_rate: int,
    stem: str | None = None,
    distortion: float | None = None,
    fill: float = 0.0,
    seed: int = 0,
    sampled: bool = True,
) -> Reconstruction:
    """Send sound through both latents and back.

    `waveform`: (samples,) or (channels, samples) with full scale 1, at `sample_rate` Hz; channels are coded one by one.
    `stem`: the instrument, one of `STEMS`; None takes the one that describes the sound at least cost.
    `distortion`: where on the rate-distortion curve, as the ratio in dB of the noise to the sound that reverse
    water-filling aims for, e.g. -12; None is the recorded operating point of the stem.
    `fill`: amplitude, from 0 to 1, of the noise that makes up for the variance that the estimate lacks, most of it
    below the water level: 0 is the least distortion, 1 restores the whole variance.
    `sampled`: whether latents are drawn from their posteriors, as the rate supposes, or are the posteriors' means,
    which carry more than that rate.

    The result does not depend on how a long recording is cut into pieces.

    Raises:
        ValueError: for an empty waveform, values that are not finite, or arguments out of range.
    """
    sound = np.atleast_2d(np.asarray(waveform, dtype=np.float32))
    if sound.ndim != 2 or sound.shape[-1] < 1:
        raise ValueError(f"a waveform of shape {np.shape(waveform)} is not (samples,) or (channels, samples)")
    if not np.isfinite(sound).all():
        raise ValueError("the waveform holds values that are not finite")
    if stem is not None and stem not in STEMS:
        raise ValueError(f"unknown stem {stem!r}: use one of {', '.join(STEMS)}")
    if not 0 <= fill <= 1:
        raise ValueError(f"fill is {fill}: it must lie between 0 and 1")
    if distortion is not None and not -60 <= distortion <= 0:
        raise ValueError(f"distortion is {distortion} dB: it must lie between -60 and 0")
    ours = model.config.sample_rate
    channels = torch.from_numpy(np.stack([resample(channel, sample_rate, ours) for channel in sound]))
    channels = pad(channels, (0, max(0, 1 - channels.shape[1])))
    stem = stem or guess_stem(model, channels, seed)
    sdr_db = OPERATING_SDR_DB[STEMS.index(stem)] if distortion is None else -distortion
    level = find_level(model, channels, sdr_db)
    decoded = torch.empty_like(channels)
    mel_nats = fine_nats = 0.0
    mels = []
    for piece in code(model, channels, STEMS.index(stem), level, fill, seed, sampled):
        decoded[:, piece.begin : piece.end] = piece.waveform
        mel_nats += piece.mel_nats
        fine_nats += piece.fine_nats
        mels.append(piece.decoded_mel)
    mel = torch.cat(mels, dim=1).numpy()
    back = np.stack([fit(resample(channel, ours, sample_rate), sound.shape[1]) for channel in decoded.numpy()])
    kbit_s = 1 / (vae.NATS_PER_KBIT * sound.shape[1] / sample_rate)
    return Reconstruction(
        back.reshape(np.shape(waveform)),
        (mel_nats + fine_nats) * kbit_s,
        mel_nats * kbit_s,
        stem,
        mel[0] if np.ndim(waveform) == 1 else mel,
    )


def fit(waveform: np.ndarray, samples: int) -> np.ndarray:
    """The waveform (samples',) cut or padded to `samples`: resampling there and back may gain or lose one."""
    return np.pad(waveform, (0, max(0, samples - len(waveform))))[:samples]


@dataclass(frozen=True)
class Piece:
    """What was decoded of samples `begin` to `end`."""

    begin: int
    end: int
    waveform: Tensor  # (channels, end - begin)
    decoded_mel: Tensor  # (channels, frames, bands) in dB
    mel_nats: float
    fine_nats: float


def code(
    model: vae.StemVAE,
    channels: Tensor,
    stem: int,
    level: Tensor,
    fill: float = 0.0,
    seed: int = 0,
    sampled: bool = True,
    piece: int = PIECE,
) -> Iterator[Piece]:
    """Code waveforms (channels, samples) at water levels ln D (channels,), piece by piece, each with as much of its
    surroundings as the networks see; every piece's noise is that of its place. `piece` is a multiple of `UNIT`."""
    samples = channels.shape[1]
    config, where = model.config, level.device
    bins, stride = config.mdct_bins[stem], config.mel_hop * vae.STRIDE
    # What can have an influence: on a decoded spectrogram 10 frames of z_mel on either side; on z_fine the frames that
    # its networks read of that; on the prior of z_mel the frames before, of which each looks 5 further.
    before = _whole_units(max((vae.MEMORY + 8) * bins + 10 * stride, (vae.CausalPrior.REACH + 6) * stride))
    after = _whole_units(8 * bins + 10 * stride)
    for begin in range(0, samples, piece):
        end = min(begin + piece, samples)
        first, last = max(0, begin - before), min(samples, end + after)
        part = channels[:, first:last].to(where)
        latents = math.ceil((part.shape[1] // config.mel_hop + 1) / vae.STRIDE)
        frames = math.ceil(part.shape[1] / bins) + 1
        shapes = ((latents, config.latent_dim), (frames, bins))
        if sampled:
            noise = tuple(
                _draw(seed, kind, len(channels), first, *shape, hop).to(where)
                for kind, (shape, hop) in enumerate(zip(shapes, (stride, bins), strict=True))
            )
        else:
            noise = tuple(torch.zeros(len(channels), *shape, device=where) for shape in shapes)
        coded = model(part, stem, level, noise)
        waveform = spectrogram.imdct(coded.coefficients, part.shape[1])
        if fill:
            deviation = fill * vae.missing_variance(coded, config).sqrt()
            white = _draw(seed, 2, len(channels), first, *deviation.shape[1:], config.mel_hop).to(where)
            waveform = waveform + spectrogram.imdct(deviation * white, part.shape[1])

        def own(frames: Tensor, hop: int, begin=begin, end=end, first=first) -> Tensor:
            """Those frames (channels, frames, ...) that belong to this piece, not to its surroundings."""
            return frames[:, (begin - first) // hop : None if end == samples else (end - first) // hop]

        yield Piece(
            begin,
            end,
            waveform[:, begin - first : end - first].cpu(),
            own(coded.decoded_mel, config.mel_hop).cpu(),
            own(coded.mel_divergence, stride).sum().item(),
            own(coded.fine_divergence, bins).sum().item(),
        )


def _whole_units(samples: int) -> int:
    return math.ceil(samples / UNIT) * UNIT


def _draw(seed: int, kind: int, channels: int, first: int, frames: int, width: int, hop: int) -> Tensor:
    """Standard normal (channels, frames, width) for frames `hop` samples apart, from sample `first` on: the same at a
    place whatever is asked for around it."""
    each = UNIT // hop
    begin = first // UNIT
    blocks = [
        torch.randn(channels, each, width, generator=runtime.random_stream(seed, kind, block))
        for block in range(begin, begin + math.ceil(frames / each))
    ]
    return torch.cat(blocks, dim=1)[:, :frames]


def find_level(model: vae.StemVAE, channels: Tensor, sdr_db: float) -> Tensor:
    """Water levels ln D (channels,) of waveforms (channels, samples), each of a whole recording."""
    hop = model.config.mel_hop
    mels = []
    for begin in range(0, channels.shape[1], PIECE):
        first = max(0, begin - UNIT)
        last = min(channels.shape[1], begin + PIECE + UNIT)
        mel = model.log_mel(channels[:, first:last].to(runtime.device()))
        mels.append(
            mel[:, (begin - first) // hop : None if last == channels.shape[1] else (begin + PIECE - first) // hop]
        )
        if last == channels.shape[1]:
            break
    wanted = torch.full((len(channels),), float(sdr_db), device=mels[0].device)
    return vae.water_level(torch.cat(mels, dim=1), wanted, model.config)


@torch.inference_mode()
def guess_stem(model: vae.StemVAE, channels: Tensor, seed: int = 0) -> str:
    """The stem whose model describes the loudest seconds of waveforms (channels, samples) at the least cost."""
    energy = channels.square().sum(0).cumsum(0)
    starts = range(0, max(1, channels.shape[1] - TRIAL + 1), UNIT)
    loudest = max(starts, key=lambda start: energy[min(start + TRIAL, len(energy)) - 1] - energy[start])
    excerpt = channels[:, loudest : loudest + TRIAL].to(runtime.device())
    level = find_level(model, excerpt, OPERATING_SDR_DB[STEMS.index("other")])
    costs = []
    for stem in range(len(STEMS)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            coded = model(excerpt, stem, level)
        costs.append((coded.mel_divergence.sum() + coded.fine_divergence.sum() + coded.distortion.sum() / 2).item())
    return STEMS[min(range(len(STEMS)), key=costs.__getitem__)]


@torch.inference_mode()
def sample_mels(model: vae.StemVAE, stem: str, count: int, seconds: float, seed: int = 0) -> Tensor:
    """Draw log-mel spectrograms (count, frames, bands) in dB of a stem, frame by frame from the prior of `z_mel`.
    Spectrogram i depends on (stem, seed, i) alone."""
    if stem not in STEMS:
        raise ValueError(f"unknown stem {stem!r}: use one of {', '.join(STEMS)}")
    if count < 1 or not 0 < seconds <= 600:
        raise ValueError(f"{count} samples of {seconds} s: ask for at least 1, of up to 600 s")
    config, where = model.config, runtime.device()
    frames = int(seconds * config.sample_rate) // config.mel_hop + 1
    latents = math.ceil(frames / vae.STRIDE)
    noise = torch.stack(
        [
            torch.randn(latents, config.latent_dim, generator=runtime.random_stream(seed, STEMS.index(stem), row))
            for row in range(count)
        ]
    ).to(where)
    stems = stem_weights(stem, count).to(where)
    drawn = torch.zeros(count, 0, config.latent_dim, device=where)
    for frame in range(latents):
        seen = drawn[:, -vae.CausalPrior.REACH :]
        upcoming = torch.cat([seen, torch.zeros_like(noise[:, :1])], dim=1)
        prior = model.mel.prior(upcoming, stems)
        latent = vae.Gaussian(prior.mean[:, -1], prior.log_variance[:, -1]).sample(noise[:, frame])
        drawn = torch.cat([drawn, latent[:, None]], dim=1)
    return model.mel.decode(drawn, stems, frames)


def stem_weights(stem: str, count: int = 1) -> Tensor:
    """How the networks are told a stem: (count, stems), 1 at the stem and 0 elsewhere."""
    return one_hot(torch.full((count,), STEMS.index(stem)), len(STEMS)).float()


def generate(model: vae.StemVAE, stem: str, count: int = 1, seconds: float = 6.0, seed: int = 0) -> np.ndarray:
    """New sound of a stem: float32 (count, samples) at the model's sample rate. `z_mel` is drawn from its prior, and
    Griffin-Lim finds a phase for the spectrogram decoded from it."""
    return make_audible(model, sample_mels(model, stem, count, seconds, seed), int(seconds * model.config.sample_rate))


@torch.inference_mode()
def make_audible(model: vae.StemVAE, log_mels: Tensor, samples: int) -> np.ndarray:
    """Griffin-Lim from log-mel spectrograms (count, frames, bands) in dB: float32 (count, samples)."""
    config = model.config
    waveform = spectrogram.griffin_lim(log_mels, samples, config.sample_rate, config.mel_window, config.mel_hop)
    return waveform.cpu().numpy()


@torch.inference_mode()
def interpolate(model: vae.StemVAE, first: Tensor, second: Tensor, stems: tuple[str, str], steps: int = 5) -> Tensor:
    """Log-mel spectrograms (steps, frames, bands) in dB on the line from one waveform's `z_mel` to another's, ends
    included, cut to the shorter one. The stem's name goes the same way."""
    if steps < 2:
        raise ValueError(f"steps is {steps}: an interpolation has at least its 2 ends")
    samples = min(len(first), len(second))
    ends = []
    for waveform, stem in zip((first, second), stems, strict=True):
        sound = waveform[None, :samples].to(runtime.device())
        level = find_level(model, sound, OPERATING_SDR_DB[STEMS.index(stem)])
        mel, weights = model.log_mel(sound), stem_weights(stem).to(sound)
        ends.append((model.mel.encode(mel, weights, level / vae.NEPERS_PER_DB).mean, weights))
    along = torch.linspace(0, 1, steps, device=sound.device)
    latents = torch.lerp(ends[0][0], ends[1][0], along[:, None, None])
    names = torch.lerp(ends[0][1], ends[1][1], along[:, None])
    return model.mel.decode(latents, names, mel.shape[1])
