"""Reverse water-filling, the optimal rate-distortion trade-off for Gaussian sources (Cover and Thomas, Elements of
Information Theory, 10.3.3), on the variances that a log-mel spectrogram predicts.

Components with a variance P above the water level D are coded with distortion D, at ln(P / D) / 2 nats each; components
below it are dropped, with distortion P. All functions take and return arrays; none is learned.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from src.audio.spectrogram import MelSpectrogram
from src.audio.spool import Spool, pieces
from src.config import LOG_FLOOR_POWER, MEL_RANGE_DB

LOG_POWER_PER_DB = math.log(10) / 10  # natural logarithm of a power, for each dB
BISECTIONS = 40
FRAMES_AT_ONCE = 2**14  # of a spectrogram on disk


def posterior_log_noise(log_variance: Tensor, correction: Tensor | float = 0.0) -> Tensor:
    """ln of the posterior's noise variance over D, given ln(P / D): a smooth version of reverse water-filling's
    ln(P / (P - D)), which exists only for P > D.

    It approaches 0 for P >> D and 2.8 for P << D. `correction` is added before the outer softplus; the maximum is 14.
    """
    excess = softplus(2 * (log_variance.clamp(max=30).exp() - 1)) / 2
    return softplus(correction - torch.log(excess + 1e-6)).clamp(max=14)


def water_level(log_mel: Tensor | Spool, sdr_db: Tensor, mel: MelSpectrogram) -> Tensor:
    """ln D (batch,) at which reverse water-filling of a log-mel spectrogram (batch, frames, bands) in dB, over time and
    over frequency in Hz, leaves a distortion `sdr_db` (batch,) below its power; at least that of the lowest
    spectrogram value.
    """
    widths = mel.bandwidths.to(sdr_db)
    whole = isinstance(log_mel, Tensor)
    powers = [(log_mel * LOG_POWER_PER_DB).exp()] if whole else _Powers(log_mel, sdr_db.device)
    allowed = sum((power @ widths).sum(dim=1) for power in powers) * (-sdr_db * LOG_POWER_PER_DB).exp()
    high = torch.stack([power.amax(dim=(1, 2)) for power in powers]).amax(dim=0).log()
    low = torch.full_like(allowed, MEL_RANGE_DB[0] * LOG_POWER_PER_DB)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        left = sum((torch.minimum(power, middle.exp()[:, None, None]) @ widths).sum(dim=1) for power in powers)
        low, high = torch.where(left > allowed, low, middle), torch.where(left > allowed, middle, high)
    return (low + high) / 2


@dataclass(frozen=True)
class _Powers:
    """The powers of a log-mel spectrogram on disk, in pieces that every iteration reads from there."""

    log_mel: Spool
    device: torch.device

    def __iter__(self) -> Iterator[Tensor]:
        for piece in pieces(self.log_mel, FRAMES_AT_ONCE):
            yield (piece.to(self.device) * LOG_POWER_PER_DB).exp()


def predicted_log_variance(log_mel: Tensor, bins: int, frames: int, mel: MelSpectrogram) -> Tensor:
    """ln of the variance that a log-mel spectrogram (batch, mel frames, bands) in dB predicts for MDCT coefficients
    (batch, frames, bins)."""
    # Time: the power of an MDCT frame is the mean over the mel frames in its window, weighted by cos^2.
    mel_times = torch.arange(log_mel.shape[1], device=log_mel.device) * mel.hop  # in samples
    times = torch.arange(frames, device=log_mel.device)[:, None] * bins
    times = times.clamp(max=mel_times[-1])  # the last MDCT frame may lie beyond the last mel frame
    reach = max(bins, mel.hop)
    weights = torch.cos(math.pi / 2 * ((mel_times - times) / reach).clamp(-1, 1)).square()
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-9)  # (frames, mel frames)
    power = torch.einsum("fm,bmk->bfk", weights, (log_mel * LOG_POWER_PER_DB).exp())
    logs = torch.log(power.clamp(min=LOG_FLOOR_POWER))  # (batch, frames, bands)

    # Frequency: linear interpolation of the logarithm between the centres of the bands.
    filters = mel.filters.to(log_mel)
    centres = torch.linspace(0, 1, len(filters), device=log_mel.device) @ filters
    positions = (torch.arange(bins, device=log_mel.device) + 0.5) / bins
    right = torch.searchsorted(centres.contiguous(), positions).clamp(1, len(centres) - 1)
    share = ((positions - centres[right - 1]) / (centres[right] - centres[right - 1])).clamp(0, 1)
    return torch.lerp(logs[..., right - 1], logs[..., right], share)


def fill_variance(missing: Tensor, decoded_mel: Tensor, mel: MelSpectrogram) -> Tensor:
    """Variance of the noise that replaces the `missing` variance (batch, frames, bins) of decoded MDCT coefficients, in
    an MDCT of frames as short as the mel's hop: (batch, ceil(samples / hop) + 1, hop), where `samples` fill all of the
    `frames` but one.

    Noise in long frames would sound before an onset as much as after it. So the missing *share* of the power that
    `decoded_mel` predicts is taken from the long frame, limited to 1, and the power itself from the short frame.
    """
    long_frames, bins = missing.shape[1:]
    frames = (long_frames - 1) * bins // mel.hop + 1
    share = missing / predicted_log_variance(decoded_mel, bins, long_frames, mel).exp()
    long_frame = (torch.arange(frames, device=missing.device) * mel.hop + bins // 2) // bins  # around each short frame
    share = share.clamp(max=1).unflatten(2, (mel.hop, -1)).mean(dim=3)[:, long_frame]
    return share * predicted_log_variance(decoded_mel, mel.hop, frames, mel).exp()
