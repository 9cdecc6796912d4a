"""New sound: samples from the stem flow, variations and continuations of a recording, interpolations in `z_mel`."""

import numpy as np
import torch
from scipy.ndimage import minimum_filter1d, uniform_filter1d
from torch import Tensor

from src import runtime
from src.audio import vae
from src.audio.flow import EDGE, StemFlow, mix_noise, path_point, solve
from src.audio.reconstruct import log_mel_blocks
from src.audio.sound_files import check_scale
from src.audio.spectrogram import MelSpectrogram
from src.audio.vae import STRIDE
from src.audio.water_filling import LOG_POWER_PER_DB, water_level
from src.config import (
    BEGINNINGS,
    GUIDANCE,
    GUIDANCE_TIMES,
    MEL_RANGE_DB,
    OPERATING_SDR_DB,
    SOLVER_STEPS,
    STEMS,
    AudioConfig,
    FlowConfig,
)
from src.errors import UsageError

MAX_SECONDS = 600
CONTINUATION_GUIDANCE = 0.5  # weaker than `GUIDANCE`, for a smaller change of level where the new part begins
CONTEXT = 64  # latent frames at the end of a recording that its continuation depends on
JOINT = 5  # latent frames (0.23 s) on each side of the end of the recording in which a beginning must fit
PHASE_BLOCK = 2**17  # samples of which the phase is estimated at once: 6 s
PHASE_OVERLAP = 2**12  # samples of the earlier block that the next one continues
LIMITER_SECONDS = 0.05  # over which the limiter turns the level down before a peak, and up after it
PHASE_AHEAD = 2**11  # samples after a block that are estimated with it and dropped


def sample(flow: StemFlow, stem: str, count: int = 1, seconds: float = 6.0, seed: int = 0) -> np.ndarray:
    """Generate sound of a stem: float32 (count, samples) at the flow's sample rate, between -1 and 1. Sample i depends
    on (stem, seed, i) alone.

    Raises:
        UsageError: an unknown stem, a count below 1, or a duration out of range.
    """
    log_mels = sample_log_mels(flow, stem, count, seconds, seed)
    samples = int(seconds * flow.config.sample_rate)
    waveforms = [mel_to_waveform(flow.spectrogram, log_mel, samples) for log_mel in log_mels]
    return np.stack([limit(waveform, flow.config.sample_rate) for waveform in waveforms])


@torch.inference_mode()
def sample_log_mels(flow: StemFlow, stem: str, count: int, seconds: float, seed: int = 0) -> Tensor:
    """Generate log-mel spectrograms (count, frames, bands) in dB of a stem. Spectrogram i depends on (stem, seed, i)
    alone. Raises UsageError, as `sample`."""
    check_stem(stem)
    if count < 1:
        raise UsageError(f"count is {count}: it must be at least 1")
    check_seconds(flow, seconds)
    samples = int(seconds * flow.config.sample_rate)
    frames = flow.spectrogram.frames(samples)
    log_mels = []
    for row in range(count):
        noise, rest_noise = draw_noise(flow, stem, flow.latent_frames(samples), seed, row)
        latent = solve_stem(flow, stem, draw_style(flow, stem, seed, row), noise)
        log_mels.append(flow.decode(latent, flow.draw_rest(STEMS.index(stem), latent, rest_noise), frames))
    return torch.cat(log_mels)


@torch.inference_mode()
def vary(flow: StemFlow, waveform: Tensor, stem: str, strength: float = 0.5, seed: int = 0) -> np.ndarray:
    """A variation of a recording (samples,) at the flow's sample rate: float32 (samples,).

    The latent is moved along the path back to time 1 - `strength`, where noise has taken its place in part, and from
    there to data again (Meng et al. 2022). `strength` 0 returns the recording's own spectrogram, 1 keeps only its
    style.

    Raises:
        UsageError: an unknown stem, a strength out of range, or a recording that is too short, too long or of another
            full scale than 1.
    """
    check_stem(stem)
    if not 0 <= strength <= 1:
        raise UsageError(f"strength is {strength}: it must lie between 0 and 1")
    check_recording(flow.config, waveform)
    log_mel = flow.log_mel(waveform[None].to(runtime.device()))
    data, own_rest = flow.encode(log_mel)
    noise, rest_noise = draw_noise(flow, stem, data.shape[1], seed)
    latent = data
    if strength > 0:
        begin = 1 - strength
        points = path_point(noise, data, noise.new_tensor([begin]))
        latent = solve_stem(flow, stem, flow.style(data), points, begin=begin)
    # The deviations of the left-out coefficients from their estimate are mixed so that their variance stays.
    stem_index = STEMS.index(stem)
    own = own_rest - flow.expected_rest(stem_index, data)
    mixed = (1 - strength**2) ** 0.5 * own + strength * flow.rest_deviation[stem_index] * rest_noise
    decoded = flow.decode(latent, flow.expected_rest(stem_index, latent) + mixed, log_mel.shape[1])
    return limit(mel_to_waveform(flow.spectrogram, decoded[0], len(waveform)), flow.config.sample_rate)


@torch.inference_mode()
def extend(flow: StemFlow, waveform: Tensor, stem: str, seconds: float = 6.0, seed: int = 0) -> np.ndarray:
    """A recording (samples,) at the flow's sample rate, continued by `seconds` of new sound: float32.

    The new part continues the last 3 seconds, in their style. Of several beginnings the one is continued at which level
    and spectrum change least. The recording itself is returned unchanged.

    Raises:
        UsageError: an unknown stem, a duration out of range, or a recording that is too short, too long or of another
            full scale than 1.
    """
    check_stem(stem)
    check_recording(flow.config, waveform)
    check_seconds(flow, seconds)
    hop, samples = flow.config.mel_hop, int(seconds * flow.config.sample_rate)
    # The end of the recording, as whole latent frames.
    part = waveform[-(STRIDE * CONTEXT + 2 * EDGE - 1) * hop :].to(runtime.device())
    log_mel = flow.log_mel(part[None])[:, EDGE:-EDGE]
    skipped = log_mel.shape[1] % STRIDE
    known, own_rest = flow.encode(log_mel[:, skipped:])
    begin = part[(EDGE + skipped) * hop :]

    # Known and new frames together, of the row of noise whose beginning fits best.
    frames = flow.spectrogram.frames(len(begin) + samples)
    latent_frames = flow.latent_frames(len(begin) + samples)
    shown = min(latent_frames, known.shape[1] + CONTEXT)
    rows = [
        [part[:, :shown].clone() for part in draw_noise(flow, stem, latent_frames, seed, row)]
        for row in range(BEGINNINGS)
    ]
    noise, rest_noise = (torch.cat(parts) for parts in zip(*rows, strict=True))
    beginnings = _continue(flow, stem, known, own_rest, noise, rest_noise, STRIDE * shown)
    best = int(_joint_changes(flow, beginnings, STRIDE * known.shape[1]).argmin())
    noise, rest_noise = draw_noise(flow, stem, latent_frames, seed, best)
    decoded = _continue(flow, stem, known, own_rest, noise, rest_noise, frames)
    new = mel_to_waveform(flow.spectrogram, decoded[0], len(begin) + samples, begin)[len(begin) :]
    return np.concatenate([waveform.numpy(), limit(new, flow.config.sample_rate)])


def _continue(
    flow: StemFlow, stem: str, known: Tensor, own_rest: Tensor, noise: Tensor, rest_noise: Tensor, frames: int
) -> Tensor:
    """Log-mel spectrograms (batch, frames, bands) in dB that begin with the latent `known` (1, latent frames,
    latent_dim) and the coefficients `own_rest` outside of it, and go on from `noise` and `rest_noise` (batch, latent
    frames, ...), whose first frames are not used."""
    batch, length = len(noise), known.shape[1]
    known, own_rest = known.expand(batch, -1, -1), own_rest.expand(batch, -1, -1)
    padded = torch.cat([known, torch.zeros_like(noise[:, length:])], dim=1)
    is_known = torch.zeros_like(noise[..., :1])
    is_known[:, :length] = 1
    latent = solve_stem(flow, stem, flow.style(known), noise, padded, is_known, guidance=CONTINUATION_GUIDANCE)
    latent = torch.cat([known, latent[:, length:]], dim=1)
    rest = flow.draw_rest(STEMS.index(stem), latent, rest_noise)
    return flow.decode(latent, torch.cat([own_rest, rest[:, length:]], dim=1), frames)


def _joint_changes(flow: StemFlow, log_mels: Tensor, joint: int) -> Tensor:
    """Change at frame `joint` of each log-mel spectrogram (batch, frames, bands), from the frames before to those
    after: (batch,) squares in dB, of the level plus of the spectrum's mean over bands."""
    reach = STRIDE * JOINT
    sides = log_mels[:, max(0, joint - reach) : joint], log_mels[:, joint : joint + reach]
    powers = [flow.spectrogram.power(side).mean(dim=1) for side in sides]
    level = 10 * (powers[1] / powers[0]).log10()
    before, after = (side.clamp(min=MEL_RANGE_DB[0]).mean(dim=1) for side in sides)
    return level.square() + (after - before).square().mean(dim=1)


def check_stem(stem: str) -> None:
    """Raise UsageError unless `stem` is one of `STEMS`."""
    if stem not in STEMS:
        raise UsageError(f"unknown stem {stem!r}: use one of {', '.join(STEMS)}")


def check_seconds(flow: StemFlow, seconds: float) -> None:
    """Raise UsageError unless new sound of `seconds` holds a sample and is not too long."""
    if not 1 <= seconds * flow.config.sample_rate <= MAX_SECONDS * flow.config.sample_rate:
        raise UsageError(
            f"seconds is {seconds:g}: it must lie between 1/{flow.config.sample_rate}, one sample, and {MAX_SECONDS}"
        )


def check_recording(config: FlowConfig | AudioConfig, waveform: Tensor) -> None:
    """Raise UsageError unless a recording (samples,) has full scale 1, holds a latent frame and is not too long."""
    least = (STRIDE + 2 * EDGE) * config.mel_hop
    if not least <= len(waveform) <= MAX_SECONDS * config.sample_rate:
        raise UsageError(
            f"the recording lasts {len(waveform) / config.sample_rate:.2f} s: use one of "
            f"{least / config.sample_rate:.2f} to {MAX_SECONDS} s"
        )
    check_scale(waveform.numpy(force=True), "the recording")


def draw_style(flow: StemFlow, stem: str, seed: int, row: int = 0) -> Tensor:
    """The style (1, style_dim) of a sample. It depends on (stem, seed, row) alone."""
    stem_index = STEMS.index(stem)
    return flow.draw_style(stem_index, runtime.random_stream(seed, stem_index, row, 1))


def draw_noise(flow: StemFlow, stem: str, latent_frames: int, seed: int, row: int = 0) -> tuple[Tensor, Tensor]:
    """Standard normal noise of the latent (1, latent frames, latent_dim), and of the coefficients that it leaves out
    (1, latent frames, 4 bands - latent_dim). It depends on (stem, seed, row) alone."""
    stem_index = STEMS.index(stem)
    stream = runtime.random_stream(seed, stem_index, row)
    own = torch.randn(1, latent_frames, flow.config.latent_dim, generator=stream).to(flow.mean)
    common = torch.randn(1, 1, flow.config.latent_dim, generator=stream).to(flow.mean)
    noise = mix_noise(own, common, flow.config.common_noise)
    rest_noise = torch.randn(1, latent_frames, flow.rest_intercept.shape[1], generator=stream).to(flow.mean)
    return noise, rest_noise


def solve_stem(
    flow: StemFlow,
    stem: str,
    style: Tensor,
    points: Tensor,
    known: Tensor | None = None,
    is_known: Tensor | None = None,
    begin: float = 0.0,
    steps: int = SOLVER_STEPS,
    guidance: float = GUIDANCE,
) -> Tensor:
    """Follow the flow of a stem in styles (batch, style_dim) from points (batch, latent frames, latent_dim) at time
    `begin` to latents of that shape. `known`, `is_known` as `VelocityNetwork.forward` takes them; None knows
    nothing."""
    if known is None or is_known is None:
        known, is_known = torch.zeros_like(points), torch.zeros_like(points[..., :1])
    condition = flow.condition(torch.tensor([STEMS.index(stem)] * len(points), device=points.device), style)
    velocity = flow.velocity(condition, points, known, is_known, guidance, GUIDANCE_TIMES)
    return solve(velocity, points, max(1, round(steps * (1 - begin))), begin)


@torch.inference_mode()
def mel_to_waveform(
    spectrogram: MelSpectrogram, log_mel: Tensor, samples: int, known: Tensor | None = None
) -> np.ndarray:
    """A waveform, float32 (samples,), of a log-mel spectrogram (frames, bands) in dB, by Griffin-Lim in blocks.

    Each block continues the samples of the earlier one, so that no seam is heard. `known`: the first samples of the
    waveform, if they are given.
    """
    hop = spectrogram.hop
    waveform = log_mel.new_zeros(0) if known is None else known[: samples - 1]
    while len(waveform) < samples:
        begin = max(0, len(waveform) - PHASE_OVERLAP) // hop * hop
        end = min(samples, begin + PHASE_BLOCK)
        ahead = min(samples, end + PHASE_AHEAD)
        context = waveform[begin:] if len(waveform) else None
        block = spectrogram.griffin_lim(log_mel[begin // hop : spectrogram.frames(ahead)], ahead - begin, context)
        waveform = torch.cat([waveform[:begin], block[: end - begin]])
    return waveform.cpu().numpy()


def limit(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """The waveform (samples,), made quieter around the samples that would exceed full scale, and nowhere else."""
    needed = 1 / np.maximum(1.0, np.abs(waveform))
    reach = round(LIMITER_SECONDS * sample_rate / 4)
    # The least gain within 2 reach, then two moving averages over half of that: smooth, and nowhere above `needed`.
    gain = minimum_filter1d(needed, 4 * reach + 1)
    for _ in range(2):
        gain = uniform_filter1d(gain, 2 * reach + 1)
    return np.clip(waveform * gain, -1, 1).astype(np.float32)  # clip removes rounding errors


@torch.inference_mode()
def interpolate(model: vae.StemVAE, first: Tensor, second: Tensor, stems: tuple[str, str], steps: int = 5) -> Tensor:
    """Log-mel spectrograms (steps, frames, bands) in dB on the straight line between the `z_mel` of two waveforms
    (samples,), both ends included, trimmed to the shorter one. The stem's label is interpolated too.

    Raises:
        UsageError: fewer than 2 steps, or a recording that is too short, too long or of another full scale than 1.
    """
    if steps < 2:
        raise UsageError(f"steps is {steps}: an interpolation has at least its 2 ends")
    samples = min(len(first), len(second))
    for waveform in (first, second):
        check_recording(model.config, waveform[:samples])
    latents, labels = [], []
    for waveform, stem in zip((first, second), stems, strict=True):
        log_mel = torch.cat(list(log_mel_blocks(model, waveform[None, :samples])), dim=1)
        label = vae.one_hot_stem(stem).to(log_mel)
        level = water_level(log_mel, log_mel.new_full((1,), OPERATING_SDR_DB[STEMS.index(stem)]), model.spectrogram)
        latents.append(model.mel.encode(log_mel, label, level / LOG_POWER_PER_DB).mean)
        labels.append(label)
    positions = torch.linspace(0, 1, steps, device=latents[0].device)
    between = torch.lerp(*latents, positions[:, None, None])
    return model.mel.decode(between, torch.lerp(*labels, positions[:, None]), log_mel.shape[1])
