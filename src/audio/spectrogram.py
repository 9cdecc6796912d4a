"""Transforms: the log-mel spectrogram with Griffin-Lim as its approximate inverse, and the lossless MDCT.

All functions take and return float tensors whose last dimension is time (waveforms, full scale 1) or frequency
(spectra); leading dimensions are batches. All are differentiable and run on the tensor's own device.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchaudio import functional

from src.config import LOG_FLOOR_POWER, AudioConfig

NONNEGATIVE_ITERATIONS = 100
GRIFFIN_LIM_ITERATIONS = 32
GRIFFIN_LIM_MOMENTUM = 0.99 / (1 + 0.99)


@dataclass(frozen=True)
class MelSpectrogram:
    """The definition of a log-mel spectrogram, and the transforms to and from it.

    Hann window of `window` samples every `hop` samples, centred on multiples of `hop`; `bands` triangles on Slaney's
    mel scale from 0 Hz to half of `sample_rate` (Hz). Power is normalised so that stationary white noise of variance v
    reads 10 log10 v in every band.

    Raises:
        ValueError: a band is too narrow to hold a frequency of the STFT.
    """

    sample_rate: int
    bands: int
    window: int
    hop: int

    def __post_init__(self) -> None:
        _filters(self)

    @classmethod
    def from_config(cls, config: AudioConfig) -> "MelSpectrogram":
        """The spectrogram that `config` defines."""
        return cls(config.sample_rate, config.mel_bands, config.mel_window, config.mel_hop)

    def frames(self, samples: int) -> int:
        """Number of frames of a waveform of `samples` samples."""
        return samples // self.hop + 1

    @property
    def filters(self) -> Tensor:
        """Mel filters (window // 2 + 1, bands); columns sum to 1."""
        return _filters(self).clone()  # a caller may change its copy

    @property
    def bandwidths(self) -> Tensor:
        """Share of the frequency axis that each band covers: (bands,), sums to 1."""
        return _bandwidths(self).clone()

    def power(self, log_mel: Tensor) -> Tensor:
        """Power (..., frames), full scale 1, of the frames of a log-mel spectrogram (..., frames, bands) in dB."""
        return 10 ** (log_mel / 10) @ self.bandwidths.to(log_mel)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Log-mel spectrogram (..., frames, bands) in dB re full scale, at least -100, of a waveform (..., samples).

        Raises:
            ValueError: an empty waveform.
        """
        _check_waveform(waveform)
        hann = torch.hann_window(self.window, device=waveform.device)
        flat = waveform.reshape(-1, waveform.shape[-1])
        spectrum = self._stft(flat, hann)
        power = spectrum.abs().square().transpose(1, 2) / hann.square().sum()
        mel = power @ self.filters.to(power)
        return (10 * mel.clamp(min=LOG_FLOOR_POWER).log10()).reshape(*waveform.shape[:-1], *mel.shape[1:])

    def griffin_lim(
        self, log_mels: Tensor, samples: int, known: Tensor | None = None, iterations: int = GRIFFIN_LIM_ITERATIONS
    ) -> Tensor:
        """A waveform (..., samples) whose log-mel spectrogram approximates `log_mels` (..., frames, bands) in dB.

        The phase is estimated (Griffin and Lim 1984, with the momentum of Perraudin et al. 2013). `known`: the first
        samples (..., known samples) of the waveform, which the rest continues; they are returned unchanged.
        """
        # A waveform shorter than a window has nothing to reflect at its ends, so it is computed longer.
        length = max(samples, self.window)
        magnitudes = self._magnitudes(log_mels).reshape(-1, log_mels.shape[-2], self.window // 2 + 1).transpose(1, 2)
        magnitudes = pad(magnitudes, (0, max(0, self.frames(length) - magnitudes.shape[-1])))
        begin = None if known is None else known.reshape(-1, known.shape[-1])

        hann = torch.hann_window(self.window, device=log_mels.device)
        phases, previous = torch.ones_like(magnitudes, dtype=torch.complex64), None
        for _ in range(iterations):
            spectrum = self._stft(self._istft(magnitudes * phases, length, hann, begin), hann, "reflect")
            phases = spectrum if previous is None else spectrum - GRIFFIN_LIM_MOMENTUM * previous
            phases = phases / (phases.abs() + 1e-16)
            previous = spectrum
        waveform = self._istft(magnitudes * phases, length, hann, begin)
        return waveform[:, :samples].reshape(*log_mels.shape[:-2], samples)

    def _magnitudes(self, log_mels: Tensor) -> Tensor:
        """Magnitudes (..., frames, frequencies) of an STFT with that log-mel spectrogram (..., frames, bands)."""
        # By the multiplicative updates of Lee and Seung (2001), so that the power is never negative.
        filters = self.filters.to(log_mels)
        hann = torch.hann_window(self.window, device=log_mels.device)
        target = (10 ** (log_mels / 10) * hann.square().sum()) @ filters.T
        power = torch.ones_like(target)
        for _ in range(NONNEGATIVE_ITERATIONS):
            power = power * target / (power @ filters @ filters.T).clamp(min=LOG_FLOOR_POWER)
        return power.sqrt()

    def _istft(self, spectrum: Tensor, length: int, hann: Tensor, known: Tensor | None) -> Tensor:
        """The waveform (batch, length) of an STFT, beginning with the samples `known` (batch, known samples)."""
        waveform = torch.istft(spectrum, self.window, self.hop, window=hann, center=True, length=length)
        return waveform if known is None else torch.cat([known, waveform[:, known.shape[1] :]], dim=1)

    def with_phase_of(self, waveform: Tensor, log_mel: Tensor) -> Tensor:
        """The waveform (samples,) with its own phase, and the magnitudes that `log_mel` (frames, bands) in dB
        predicts."""
        filters = self.filters.to(log_mel)
        hann = torch.hann_window(self.window, device=waveform.device)
        spread = (filters / filters.sum(1, keepdim=True).clamp(min=LOG_FLOOR_POWER)).T
        power = (10 ** (log_mel / 10)) @ spread * hann.square().sum()
        changed = torch.polar(power.clamp(min=0).sqrt().T, self._stft(waveform, hann).angle())
        return torch.istft(changed, self.window, self.hop, window=hann, center=True, length=len(waveform))

    def _stft(self, waveform: Tensor, hann: Tensor, pad_mode: str = "constant") -> Tensor:
        return torch.stft(
            waveform, self.window, self.hop, window=hann, center=True, pad_mode=pad_mode, return_complex=True
        )


@cache
@torch.inference_mode(False)  # the cached tensor must also serve training
def _filters(mel: MelSpectrogram) -> Tensor:
    filters = _triangles(mel)
    if not (filters.sum(0) > 0).all():
        raise ValueError(
            f"{mel.bands} mel bands are too many for a window of {mel.window} samples: some would be empty"
        )
    return filters / filters.sum(0)


@cache
@torch.inference_mode(False)  # the cached tensor must also serve training
def _bandwidths(mel: MelSpectrogram) -> Tensor:
    widths = _triangles(mel).sum(0)
    return widths / widths.sum()


def _triangles(mel: MelSpectrogram) -> Tensor:
    return functional.melscale_fbanks(
        mel.window // 2 + 1, 0.0, mel.sample_rate / 2, mel.bands, mel.sample_rate, norm=None, mel_scale="slaney"
    )


def mdct(waveform: Tensor, bins: int) -> Tensor:
    """Modified discrete cosine transform of a waveform (..., samples): (..., frames, bins) with
    frames = ceil(samples / bins) + 1.

    Orthonormal, with the sine window: an error in coefficients is the same error in samples (Princen and Bradley 1986;
    Malvar 1992).

    Raises:
        ValueError: an empty waveform.
    """
    _check_waveform(waveform)
    samples = waveform.shape[-1]
    frames = math.ceil(samples / bins) + 1
    padded = pad(waveform, (bins, frames * bins - samples))
    window, before, after = _twiddles(bins, waveform.device)
    spectrum = torch.fft.fft(padded.unfold(-1, 2 * bins, bins) * window * before)
    return (spectrum[..., :bins] * after).real


def imdct(coefficients: Tensor, samples: int) -> Tensor:
    """The waveform (..., samples) of MDCT coefficients (..., frames, bins): the inverse, and transpose, of `mdct`.

    Raises:
        ValueError: the frames hold fewer samples.
    """
    frames, bins = coefficients.shape[-2:]
    if not 0 < samples <= (frames - 1) * bins:
        raise ValueError(f"{frames} frames of {bins} bins hold {(frames - 1) * bins} samples, not {samples}")
    window, before, after = _twiddles(bins, coefficients.device)
    spectrum = torch.fft.fft(coefficients * after, 2 * bins) * before
    halves = (spectrum.real * window).unflatten(-1, (2, bins))  # (..., frames, 2, bins)
    waveform = pad(halves[..., 0, :], (0, 0, 0, 1)) + pad(halves[..., 1, :], (0, 0, 1, 0))  # overlap-add
    return waveform.flatten(-2)[..., bins : bins + samples]


@cache
@torch.inference_mode(False)  # the cached tensors must also serve training
def _twiddles(bins: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The MDCT's sine window, and the factors before and after the Fourier transform that computes it.

    cos(pi / N (n + n0) (k + 1/2)), n0 = (N + 1) / 2, is the real part of before[n] exp(-2 pi i n k / 2N) after[k].
    """
    n = torch.arange(2 * bins, dtype=torch.float64)
    k = torch.arange(bins, dtype=torch.float64)
    window = torch.sin(math.pi * (n + 0.5) / (2 * bins))
    before = torch.polar(torch.ones_like(n), -math.pi * n / (2 * bins))
    after = torch.polar(torch.full_like(k, math.sqrt(2 / bins)), -math.pi * (bins + 1) / 2 * (k + 0.5) / bins)
    return window.float().to(device), before.to(torch.complex64).to(device), after.to(torch.complex64).to(device)


def _check_waveform(waveform: Tensor) -> None:
    if waveform.shape[-1] < 1:
        raise ValueError(f"a waveform of shape {tuple(waveform.shape)} holds no sample")
