"""Metrics of reconstructed audio: pure functions of a reference and an estimate.

Waveforms are float tensors (..., samples) with full scale 1; a metric of a batch is a tensor of the leading dimensions.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional import audio as torchmetrics_audio

from src.audio.sound_files import resample
from src.config import UNDEFINED_METRIC_POWER

STFT_WINDOWS = (512, 1024, 2048)  # samples
ZIMTOHRLI_RATE = 48_000  # Hz


def sdr_museval(reference: Tensor, estimate: Tensor, sample_rate: int) -> Tensor:
    """Signal-to-distortion ratio in dB of each 1-second window: (..., samples // sample_rate). NaN where the
    reference's or the estimate's window is silent.

    SDR of BSS Eval v4 as museval computes it (Stoter et al. 2018): any difference from the reference is distortion; no
    filter or gain is forgiven. It is reported as the median over windows, then over tracks.

    Raises:
        ValueError: less than one window, or an invalid pair.
    """
    _check_pair(reference, estimate)
    windows = reference.shape[-1] // sample_rate
    if windows == 0:
        raise ValueError(f"{reference.shape[-1]} samples are less than one window of {sample_rate}")
    reference, estimate = (x[..., : windows * sample_rate].unflatten(-1, (windows, -1)) for x in (reference, estimate))
    ratio = sdr_global(reference, estimate)
    return ratio.where(estimate.square().sum(-1) > 0, torch.nan)


def median(values: Tensor) -> float:
    """Median of the values that are not NaN; NaN if there is none."""
    return values.nanquantile(0.5).item()


def sdr_global(reference: Tensor, estimate: Tensor) -> Tensor:
    """10 log10(sum s^2 / sum (s - s')^2) in dB over all samples (Mitsufuji et al. 2021, eq. 1). NaN for a silent
    reference. A silent estimate scores 0 dB, an exact one infinity."""
    _check_pair(reference, estimate)
    power = reference.double().square().sum(-1)
    ratio = 10 * torch.log10(power / (reference.double() - estimate.double()).square().sum(-1))
    return ratio.where(power > UNDEFINED_METRIC_POWER * reference.shape[-1], torch.nan)


def si_sdr(reference: Tensor, estimate: Tensor) -> Tensor:
    """Scale-invariant SDR in dB (Le Roux et al. 2019): the SDR after the best gain. NaN for a silent reference."""
    _check_pair(reference, estimate)
    ratio = torchmetrics_audio.scale_invariant_signal_distortion_ratio(estimate.double(), reference.double())
    return ratio.where(reference.double().square().mean(-1) > UNDEFINED_METRIC_POWER, torch.nan)


def snr(reference: Tensor, estimate: Tensor) -> Tensor:
    """Signal-to-noise ratio in dB: the SDR of the signals after removing their means. NaN for a silent reference."""
    _check_pair(reference, estimate)
    ratio = torchmetrics_audio.signal_noise_ratio(estimate.double(), reference.double(), zero_mean=True)
    return ratio.where(reference.double().square().mean(-1) > UNDEFINED_METRIC_POWER, torch.nan)


def mse(reference: Tensor, estimate: Tensor) -> Tensor:
    """Mean squared error of waveforms with full scale 1."""
    _check_pair(reference, estimate)
    return (reference.double() - estimate.double()).square().mean(-1)


def stft_distance(reference: Tensor, estimate: Tensor, windows: tuple[int, ...] = STFT_WINDOWS) -> Tensor:
    """Multi-resolution STFT distance: spectral convergence plus mean absolute log-magnitude difference in nats, mean
    over `windows` in samples; 0 is best (Yamamoto et al. 2020, eq. 4 to 6).

    Magnitudes are clamped to 60 dB below the reference's largest, so that inaudible bins do not count.
    """
    _check_pair(reference, estimate)
    total = 0
    for window in windows:
        true, estimated = (_magnitudes(x, window) for x in (reference, estimate))
        floor = true.amax((-1, -2), keepdim=True).clamp(min=1e-5) * 1e-3
        true, estimated = true.maximum(floor), estimated.maximum(floor)
        convergence = (true - estimated).square().sum((-1, -2)).sqrt() / true.square().sum((-1, -2)).sqrt()
        total = total + convergence + (true.log() - estimated.log()).abs().mean((-1, -2))
    return total / len(windows)


def _magnitudes(waveform: Tensor, window: int) -> Tensor:
    flat = waveform.reshape(-1, waveform.shape[-1]).float()
    hann = torch.hann_window(window, device=waveform.device)
    spectrum = torch.stft(flat, window, window // 4, window=hann, pad_mode="constant", return_complex=True).abs()
    return spectrum.reshape(*waveform.shape[:-1], *spectrum.shape[1:])


def log_mel_error(reference: Tensor, estimate: Tensor, range_db: float = 60.0) -> Tensor:
    """Root-mean-square difference in dB of log-mel spectrograms (..., frames, bands), over the bins in which the
    reference is within `range_db` of its loudest."""
    audible = reference > reference.amax((-1, -2), keepdim=True) - range_db
    squares = (reference - estimate).square() * audible
    return (squares.sum((-1, -2)) / audible.sum((-1, -2))).sqrt()


def zimtohrli_mos(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float | None:
    """Mean opinion score from 1 (bad) to 5 (excellent) that Zimtohrli predicts for an estimate (samples,), at 48 kHz.
    None if its package is not installed: it has no wheels for macOS.

    Zimtohrli (Alakuijala et al. 2025, https://arxiv.org/abs/2509.26133) compares spectrograms as the ear resolves them,
    aligned in time. A wrong phase counts only as far as it changes them.
    """
    if not (zimtohrli := _zimtohrli()):
        return None
    pair = [np.ascontiguousarray(resample(x, sample_rate, ZIMTOHRLI_RATE), np.float32) for x in (reference, estimate)]
    return float(zimtohrli.mos_from_zimtohrli(zimtohrli.Pyohrli().distance(*pair)))


@cache
def _zimtohrli():
    try:
        import zimtohrli
    except ImportError:
        return None
    return zimtohrli


def _check_pair(reference: Tensor, estimate: Tensor) -> None:
    if reference.shape != estimate.shape or reference.shape[-1] < 1:
        raise ValueError(f"reference has shape {tuple(reference.shape)}, estimate {tuple(estimate.shape)}: "
                         "they must agree, and hold at least one sample")  # fmt: skip
    if not (torch.isfinite(reference).all() and torch.isfinite(estimate).all()):
        raise ValueError("a waveform holds values that are not finite")
