"""Reconstruct a recording of any length: encode it, sample both latents, and decode, block by block."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from tqdm.auto import tqdm

from src import paths, runtime
from src.audio import vae
from src.audio.sound_files import (
    check_format,
    check_scale,
    pad_or_trim,
    read_blocks,
    resample,
    resample_blocks,
    trim_blocks,
    write_blocks,
)
from src.audio.spectrogram import imdct
from src.audio.spool import Spool, pieces
from src.audio.water_filling import fill_variance, water_level
from src.config import MAX_RATE, MIN_RATE, OPERATING_SDR_DB, STEMS, AudioConfig, check_seed
from src.errors import UsageError
from src.files import existing_parent

BLOCK = 2**19  # samples of a recording in memory that are coded at once: 24 s
FILE_PART = 2**18  # the same for a file, the context included: 12 s
CHANNELS_AT_ONCE = 4  # of a block of that length; with more channels, blocks are shorter
ALIGNMENT = 2**13  # samples: a multiple of every frame length. Blocks start at multiples of it; noise is drawn for each
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


@dataclass(frozen=True)
class FileReconstruction:
    """The facts of a reconstructed file."""

    channels: int
    seconds: float
    rate: float  # kbit/s, as in `Reconstruction`
    mel_rate: float  # kbit/s
    stem: str


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
    _check_arguments(stem, sdr_db, fill, seed)
    if not MIN_RATE <= sample_rate <= MAX_RATE:
        raise UsageError(f"sample_rate is {sample_rate}: it must lie between {MIN_RATE} and {MAX_RATE} Hz")
    sound = _as_channels(waveform)
    model_rate = model.config.sample_rate
    channels = torch.from_numpy(np.stack([resample(channel, sample_rate, model_rate) for channel in sound]))
    channels = pad(channels, (0, max(0, 1 - channels.shape[1])))
    log_mel = torch.cat(list(log_mel_blocks(model, channels)), dim=1)
    stem = stem or guess_stem(model, channels, seed)

    blocks = list(_reconstructed(model, channels, log_mel, stem, sdr_db, fill, seed, sampled, BLOCK))
    decoded = torch.cat([block.waveform for block in blocks], dim=1).numpy()
    decoded_mel = torch.cat([block.decoded_mel for block in blocks], dim=1).numpy()
    restored = [pad_or_trim(resample(channel, model_rate, sample_rate), sound.shape[1]) for channel in decoded]
    rate, mel_rate = _rates(((block.mel_nats, block.fine_nats) for block in blocks), sound.shape[1] / sample_rate)
    return Reconstruction(
        np.stack(restored).reshape(np.shape(waveform)),
        rate,
        mel_rate,
        stem,
        decoded_mel[0] if np.ndim(waveform) == 1 else decoded_mel,
    )


@torch.inference_mode()
def reconstruct_file(
    model: vae.StemVAE,
    source: Path,
    target: Path,
    stem: str | None = None,
    sdr_db: float | None = None,
    fill: float = 0.0,
    seed: int = 0,
    sampled: bool = True,
) -> FileReconstruction:
    """Write the sound file `source` to `target` as the model reconstructs it, block by block: as `reconstruct`, with
    its arguments, for recordings of any length.

    The decoded sound and its spectrogram wait in temporary files beside `target`.

    Raises:
        UsageError: an argument out of range, or sound of another scale.
        DataError: `source` cannot be read, or its sound cannot be held by the format of `target`.
        OutputError: `target` cannot be written.
    """
    _check_arguments(stem, sdr_db, fill, seed)
    model_rate, folder = model.config.sample_rate, existing_parent(target)
    with Spool(folder) as channels, Spool(folder) as log_mel, runtime.little_memory() as return_memory:
        # First pass: the sound at the model's sample rate, and its spectrogram.
        samples, sample_rate = _spool_sound(source, target, channels, model_rate)
        for part in log_mel_blocks(model, channels):
            log_mel.append(part)
        stem = stem or guess_stem(model, channels, seed)

        # Second pass: code, restore the sample rate, write.
        nats = []

        def decoded() -> Iterator[np.ndarray]:
            total = channels.shape[1]
            length = max(ALIGNMENT, FILE_PART - sum(_context(model.config, STEMS.index(stem))))
            blocks = _reconstructed(model, channels, log_mel, stem, sdr_db, fill, seed, sampled, length)
            with tqdm(total=total, desc="reconstruct", unit="sample", unit_scale=True, disable=total <= BLOCK) as bar:
                for block in blocks:
                    nats.append((block.mel_nats, block.fine_nats))
                    bar.update(block.waveform.shape[1])
                    yield block.waveform.numpy()
                    return_memory()

        restored = resample_blocks(decoded(), model_rate, sample_rate)
        write_blocks(target, trim_blocks(restored, samples), len(channels), sample_rate)
        return FileReconstruction(len(channels), samples / sample_rate, *_rates(nats, samples / sample_rate), stem)


def _check_arguments(stem: str | None, sdr_db: float | None, fill: float, seed: int) -> None:
    """Raise UsageError if an argument is out of range."""
    if stem is not None and stem not in STEMS:
        raise UsageError(f"unknown stem {stem!r}: use one of {', '.join(STEMS)}")
    if not 0 <= fill <= 1:
        raise UsageError(f"fill is {fill}: it must lie between 0 and 1")
    if sdr_db is not None and not 0 <= sdr_db <= 60:
        raise UsageError(f"sdr_db is {sdr_db}: it must lie between 0 and 60 dB")
    check_seed(seed)


def _as_channels(waveform: np.ndarray) -> np.ndarray:
    """The waveform as float32 (channels, samples), integers scaled by the range of their type. Raises UsageError."""
    waveform = np.asarray(waveform)
    if np.issubdtype(waveform.dtype, np.signedinteger):
        waveform = waveform / -float(np.iinfo(waveform.dtype).min)
    if not np.issubdtype(waveform.dtype, np.floating):
        raise UsageError(f"a waveform of type {waveform.dtype}: use floats with full scale 1, or signed integers")
    sound = np.atleast_2d(waveform.astype(np.float32))
    if sound.ndim != 2 or sound.size < 1:
        raise UsageError(f"a waveform of shape {np.shape(waveform)} is not (samples,) or (channels, samples)")
    check_scale(sound, "the waveform")
    return sound


def _spool_sound(source: Path, target: Path, channels: Spool, model_rate: int) -> tuple[int, int]:
    """Fill `channels` with the sound of a file at `model_rate` Hz. Returns the file's samples and sample rate.

    Refuses a `target` whose format cannot hold the sound before any of it is coded.
    """
    blocks = read_blocks(source)
    first, sample_rate = next(blocks)
    check_format(target, len(first), sample_rate)
    samples = 0

    def checked() -> Iterator[np.ndarray]:
        nonlocal samples
        for block in chain([first], (block for block, _ in blocks)):
            check_scale(block, paths.relative(source))
            samples += block.shape[1]
            yield block

    for part in resample_blocks(checked(), sample_rate, model_rate):
        channels.append(torch.from_numpy(part))
    if not channels.shape[1]:  # shorter than a sample of the model's
        channels.append(torch.zeros(len(first), 1))
    return samples, sample_rate


def _rates(nats: Iterable[tuple[float, float]], seconds: float) -> tuple[float, float]:
    """The rate of both latents, and of `z_mel` alone, in kbit/s, from the nats (z_mel, z_fine) of each block."""
    mel_nats, fine_nats = map(sum, zip(*nats, strict=True))
    kbit_s = 1 / (vae.NATS_PER_KBIT * seconds)  # kbit/s that one nat makes
    return (mel_nats + fine_nats) * kbit_s, mel_nats * kbit_s


@dataclass(frozen=True)
class Block:
    """The decoded samples of one block, and the information in its latents."""

    waveform: Tensor  # (channels, samples)
    decoded_mel: Tensor  # (channels, frames, bands) in dB
    mel_nats: float
    fine_nats: float


def _reconstructed(
    model: vae.StemVAE, channels: Tensor | Spool, log_mel: Tensor | Spool, stem: str, sdr_db: float | None,
    fill: float, seed: int, sampled: bool, length: int,
) -> Iterator[Block]:  # fmt: skip
    """The blocks of `length` samples of a recording, at the water level of all of it. Zeros give zeros."""
    stem_index = STEMS.index(stem)
    target_db = OPERATING_SDR_DB[stem_index] if sdr_db is None else sdr_db
    targets = torch.full((len(channels),), float(target_db), device=runtime.device())
    level = water_level(log_mel, targets, model.spectrogram)
    silent = torch.stack([(part == 0).all(dim=1) for part in pieces(channels, BLOCK)]).all(dim=0)
    for block in reconstruct_blocks(model, channels, log_mel, stem_index, level, fill, seed, sampled, length):
        yield replace(block, waveform=torch.where(silent[:, None], 0.0, block.waveform))


def reconstruct_blocks(
    model: vae.StemVAE,
    channels: Tensor | Spool,
    log_mel: Tensor | Spool,
    stem_index: int,
    level: Tensor,
    fill: float = 0.0,
    seed: int = 0,
    sampled: bool = True,
    block: int = BLOCK,
) -> Iterator[Block]:
    """Code waveforms (channels, samples) with the log-mel spectrograms (channels, frames, bands) at water levels ln D
    (channels,), in blocks of `block` samples, a multiple of `ALIGNMENT`; shorter ones for many channels.

    Blocks overlap by the receptive field and noise depends on absolute position, so the output does not depend on the
    block size.
    """
    samples = channels.shape[1]
    block = max(ALIGNMENT, block // max(1, len(channels) // CHANNELS_AT_ONCE) // ALIGNMENT * ALIGNMENT)
    before, after = _context(model.config, stem_index)
    for begin in range(0, samples, block):
        end = min(begin + block, samples)
        first, last = max(0, begin - before), min(samples, end + after)
        part = channels[:, first:last]
        frame = first // model.config.mel_hop
        part_mel = log_mel[:, frame : frame + model.spectrogram.frames(part.shape[1])]
        # The last block keeps its last, incomplete frame.
        inside = (begin - first, None if end == samples else end - first)
        yield _code_block(model, part, part_mel, stem_index, level, first, inside, fill, seed, sampled)


def _code_block(
    model: vae.StemVAE, part: Tensor, part_mel: Tensor, stem_index: int, level: Tensor, first: int,
    inside: tuple[int, int | None], fill: float, seed: int, sampled: bool,
) -> Block:  # fmt: skip
    """Code waveforms (channels, samples), a block with its context that starts at sample `first` of the recording, and
    keep its samples `inside`, the block itself. The channels pass the networks one by one, to save memory."""
    config, hop, samples = model.config, model.config.mel_hop, part.shape[1]
    bins = config.mdct_bins[stem_index]
    mel_shape, fine_shape = model.latent_shapes(len(part), samples, stem_index)
    if sampled:
        mel_noise = _position_noise(seed, MEL_NOISE, first, mel_shape, hop * vae.STRIDE)
        fine_noise = _position_noise(seed, FINE_NOISE, first, fine_shape, bins)
    else:
        mel_noise, fine_noise = torch.zeros(mel_shape), torch.zeros(fine_shape)
    white_shape = (len(part), (math.ceil(samples / bins) * bins) // hop + 1, hop)
    white = _position_noise(seed, FILL_NOISE, first, white_shape, hop) if fill else None
    waveforms, decoded_mels, mel_nats, fine_nats = [], [], 0.0, 0.0
    for row in range(len(part)):
        own = slice(row, row + 1)
        noise = (mel_noise[own].to(level), fine_noise[own].to(level))
        output = model(part[own].to(level), part_mel[own].to(level), stem_index, level[own], noise)
        decoded = imdct(output.coefficients, samples)
        if fill:  # replace the missing variance by noise
            deviation = fill * fill_variance(output.missing, output.decoded_mel, model.spectrogram).sqrt()
            decoded = decoded + imdct(deviation * white[own].to(level), samples)
        waveforms.append(decoded[:, slice(*inside)].cpu())
        decoded_mels.append(_frames_inside(output.decoded_mel, inside, hop).cpu())
        mel_nats += _frames_inside(output.mel_divergence, inside, hop * vae.STRIDE).sum().item()
        fine_nats += _frames_inside(output.fine_divergence, inside, bins).sum().item()
    return Block(torch.cat(waveforms), torch.cat(decoded_mels), mel_nats, fine_nats)


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


def _position_noise(seed: int, kind: int, first: int, shape: tuple[int, int, int], hop: int) -> Tensor:
    """Standard normal noise of `shape` (channels, frames, width) that depends only on (seed, kind, absolute frame).

    Frames are `hop` samples apart, and the first one is at sample `first`, a multiple of `ALIGNMENT`.
    """
    channels, frames, width = shape
    frames_each = ALIGNMENT // hop
    start = first // ALIGNMENT
    parts = [
        torch.randn(channels, frames_each, width, generator=runtime.random_stream(seed, kind, piece))
        for piece in range(start, start + math.ceil(frames / frames_each))
    ]
    return torch.cat(parts, dim=1)[:, :frames]


def log_mel_blocks(model: vae.StemVAE, channels: Tensor | Spool) -> Iterator[Tensor]:
    """Log-mel spectrograms (channels, frames, bands) in dB of waveforms (channels, samples), in consecutive blocks of
    frames, computed on this process's device."""
    hop, samples = model.config.mel_hop, channels.shape[1]
    block = max(ALIGNMENT, BLOCK // len(channels) // ALIGNMENT * ALIGNMENT)
    for begin in range(0, samples, block):
        first, last = max(0, begin - ALIGNMENT), min(samples, begin + block + ALIGNMENT)
        log_mel = model.log_mel(channels[:, first:last].to(runtime.device()))
        yield log_mel[:, (begin - first) // hop : None if last == samples else (begin + block - first) // hop]
        if last == samples:
            return


@torch.inference_mode()
def guess_stem(model: vae.StemVAE, channels: Tensor | Spool, seed: int = 0) -> str:
    """The stem whose model has the lowest negative ELBO on the loudest seconds of waveforms (channels, samples)."""
    excerpt = _loudest_excerpt(channels).to(runtime.device())
    log_mel = model.log_mel(excerpt)
    level = water_level(log_mel, log_mel.new_full((len(excerpt),), GUESS_SDR_DB), model.spectrogram)
    costs = {}
    for stem_index, stem in enumerate(STEMS):
        costs[stem] = 0.0
        with runtime.seeded(seed):
            both = [torch.randn(shape) for shape in model.latent_shapes(*excerpt.shape, stem_index)]
        for row in range(len(excerpt)):  # one by one, to save memory
            own = slice(row, row + 1)
            noise = tuple(of_latent[own].to(level) for of_latent in both)
            output = model(excerpt[own], log_mel[own], stem_index, level[own], noise)
            nats = output.mel_divergence.sum() + output.fine_divergence.sum() + output.distortion.sum() / 2
            costs[stem] += nats.item()
    return min(costs, key=costs.__getitem__)


def _loudest_excerpt(channels: Tensor | Spool) -> Tensor:
    """The `GUESS_SAMPLES` samples with the most energy, of those that start at a multiple of `ALIGNMENT`."""
    energies = torch.stack([part.double().square().sum() for part in pieces(channels, ALIGNMENT)])
    windows = energies.unfold(0, min(len(energies), GUESS_SAMPLES // ALIGNMENT), 1).sum(dim=1)
    complete = max(1, (channels.shape[1] - GUESS_SAMPLES) // ALIGNMENT + 1)
    begin = int(windows[:complete].argmax()) * ALIGNMENT
    return channels[:, begin : begin + GUESS_SAMPLES]
