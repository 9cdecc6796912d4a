"""What regenerated audio is judged by: pure functions of waveforms.

Waveforms are float tensors (..., samples) with full scale 1; a metric of a batch is a tensor of the leading dimensions.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional import audio as torchmetrics_audio

from src.audio.data import resample

SILENCE = 1e-10  # mean power below which a reference counts as silent: -100 dB


def sdr_museval(reference: Tensor, estimate: Tensor, sample_rate: int) -> Tensor:
    """Signal-to-distortion ratio in dB of each 1-second window: (..., samples // sample_rate), NaN where the reference
    window, or the estimate's, is silent.

    SDR of BSS Eval v4 as museval computes it (Stoter et al. 2018): whatever differs from the reference is distortion,
    with no filter or gain forgiven. It is reported as the median over windows, then over tracks.
    """
    _check_pair(reference, estimate)
    windows = reference.shape[-1] // sample_rate
    if windows == 0:
        raise ValueError(f"{reference.shape[-1]} samples are less than one window of {sample_rate}")
    reference, estimate = (x[..., : windows * sample_rate].unflatten(-1, (windows, -1)) for x in (reference, estimate))
    ratio = sdr_global(reference, estimate)
    return ratio.where(estimate.square().sum(-1) > 0, torch.nan)


def median(values: Tensor) -> float:
    """Of those values that are defined, the middle one or the mean of the two middle ones; NaN where there is none."""
    return values.nanquantile(0.5).item()


def sdr_global(reference: Tensor, estimate: Tensor) -> Tensor:
    """10 log10(sum s^2 / sum (s - s')^2) in dB over all samples, NaN where the reference is silent (Mitsufuji et al.
    2021, eq. 1). A silent estimate scores 0 dB, an exact one infinity."""
    _check_pair(reference, estimate)
    power = reference.double().square().sum(-1)
    ratio = 10 * torch.log10(power / (reference.double() - estimate.double()).square().sum(-1))
    return ratio.where(power > SILENCE * reference.shape[-1], torch.nan)


def si_sdr(reference: Tensor, estimate: Tensor) -> Tensor:
    """Scale-invariant SDR in dB (Le Roux et al. 2019): a gain is forgiven, nothing else. NaN for a silent reference."""
    _check_pair(reference, estimate)
    ratio = torchmetrics_audio.scale_invariant_signal_distortion_ratio(estimate.double(), reference.double())
    return ratio.where(reference.double().square().mean(-1) > SILENCE, torch.nan)


def snr(reference: Tensor, estimate: Tensor) -> Tensor:
    """Signal-to-noise ratio in dB, means removed: the SDR of the signals without their constant part."""
    _check_pair(reference, estimate)
    ratio = torchmetrics_audio.signal_noise_ratio(estimate.double(), reference.double(), zero_mean=True)
    return ratio.where(reference.double().square().mean(-1) > SILENCE, torch.nan)


def mse(reference: Tensor, estimate: Tensor) -> Tensor:
    """Mean squared error of waveforms with full scale 1."""
    _check_pair(reference, estimate)
    return (reference.double() - estimate.double()).square().mean(-1)


def stft_distance(reference: Tensor, estimate: Tensor, windows: tuple[int, ...] = (512, 1024, 2048)) -> Tensor:
    """Multi-resolution STFT distance: spectral convergence plus mean absolute log-magnitude difference in nats, mean
    over windows; 0 is best (Yamamoto et al. 2020, eq. 4 to 6).

    Magnitudes are taken as at least 60 dB below the reference's largest, so that inaudible bins do not count.
    """
    _check_pair(reference, estimate)
    total = 0
    for window in windows:
        ours, theirs = (_magnitudes(x, window) for x in (reference, estimate))
        floor = ours.amax((-1, -2), keepdim=True).clamp(min=1e-5) * 1e-3
        ours, theirs = ours.maximum(floor), theirs.maximum(floor)
        convergence = (ours - theirs).square().sum((-1, -2)).sqrt() / ours.square().sum((-1, -2)).sqrt()
        total = total + convergence + (ours.log() - theirs.log()).abs().mean((-1, -2))
    return total / len(windows)


def _magnitudes(waveform: Tensor, window: int) -> Tensor:
    flat = waveform.reshape(-1, waveform.shape[-1]).float()
    hann = torch.hann_window(window, device=waveform.device)
    spectrum = torch.stft(flat, window, window // 4, window=hann, pad_mode="constant", return_complex=True).abs()
    return spectrum.reshape(*waveform.shape[:-1], *spectrum.shape[1:])


def log_mel_error(reference: Tensor, estimate: Tensor, range_db: float = 60.0) -> Tensor:
    """Root-mean-square difference in dB of log-mel spectrograms (..., frames, bands), over the bins of the reference
    within `range_db` of its loudest."""
    audible = reference > reference.amax((-1, -2), keepdim=True) - range_db
    squares = (reference - estimate).square() * audible
    return (squares.sum((-1, -2)) / audible.sum((-1, -2))).sqrt()


def zimtohrli_mos(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float | None:
    """Mean opinion score, from 1 (bad) to 5 (excellent), that Zimtohrli predicts for an estimate (samples,), or None
    where its package is not installed: it has no wheel for every system.

    A model of hearing with no music in its training (https://github.com/google/zimtohrli), at 48 kHz.
    """
    if not (zimtohrli := _zimtohrli()):
        return None
    heard = [np.ascontiguousarray(resample(x, sample_rate, 48_000), np.float32) for x in (reference, estimate)]
    return float(zimtohrli.mos_from_zimtohrli(zimtohrli.Pyohrli().distance(*heard)))


@cache
def _zimtohrli():
    try:
        import zimtohrli
    except ImportError:
        return None
    return zimtohrli


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Frechet distance of two feature sets (count, features), each seen as a Gaussian; 0 is best.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), in float64 (Dowson and Landau 1982; Kilgour et al. 2019 for audio).
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 2:
        raise ValueError(
            f"features have shapes {tuple(real.shape)} and {tuple(fake.shape)}: expected (count, features)"
        )
    real, fake = real.double(), fake.double()
    first, second = torch.cov(real.T), torch.cov(fake.T)
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    distance = (real.mean(0) - fake.mean(0)).square().sum() + first.trace() + second.trace() - 2 * shared
    return distance.item()


def _check_pair(reference: Tensor, estimate: Tensor) -> None:
    if reference.shape != estimate.shape or reference.shape[-1] < 1:
        raise ValueError(f"reference has shape {tuple(reference.shape)}, estimate {tuple(estimate.shape)}: "
                         "they must agree, and hold at least one sample")  # fmt: skip
    if not (torch.isfinite(reference).all() and torch.isfinite(estimate).all()):
        raise ValueError("a waveform holds values that are not finite")
