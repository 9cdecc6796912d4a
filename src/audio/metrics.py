"""What regenerated audio is judged by: pure functions of waveforms.

Waveforms are float tensors (..., samples) with full scale 1; a metric of a batch is a tensor of the leading dimensions.
"""

import torch
from torch import Tensor
from torchmetrics.functional import audio as torchmetrics_audio

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


def _check_pair(reference: Tensor, estimate: Tensor) -> None:
    if reference.shape != estimate.shape or reference.shape[-1] < 1:
        raise ValueError(f"reference has shape {tuple(reference.shape)}, estimate {tuple(estimate.shape)}: "
                         "they must agree, and hold at least one sample")  # fmt: skip
    if not (torch.isfinite(reference).all() and torch.isfinite(estimate).all()):
        raise ValueError("a waveform holds values that are not finite")
