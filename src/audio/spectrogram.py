"""Between waveforms and their pictures: log-mel spectrograms, Griffin-Lim, and the MDCT, which loses nothing.

Every function takes and returns float tensors whose last dimension is time (waveforms, full scale 1) or frequency
(spectra); leading dimensions are batches. All are differentiable and run on the tensor's own device.
"""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchaudio import functional

FLOOR = 1e-10  # mel power below which a bin counts as silent: -100 dB
NONNEGATIVE_ITERATIONS = 100


def log_mel(waveform: Tensor, sample_rate: int, bands: int, window: int, hop: int) -> Tensor:
    """Log-mel spectrogram (..., frames, bands) in dB re full scale, at least -100, of a waveform (..., samples).

    Hann window of `window` samples every `hop` samples, centred on multiples of `hop`; frames = samples // hop + 1.
    Power is normalised so that stationary white noise of variance v reads 10 log10 v in every band.
    """
    _check_waveform(waveform)
    hann = torch.hann_window(window, device=waveform.device)
    flat = waveform.reshape(-1, waveform.shape[-1])
    spectrum = torch.stft(flat, window, hop, window=hann, center=True, pad_mode="constant", return_complex=True)
    power = spectrum.abs().square().transpose(1, 2) / hann.square().sum()
    mel = power @ mel_filters(sample_rate, bands, window).to(power)
    return (10 * mel.clamp(min=FLOOR).log10()).reshape(*waveform.shape[:-1], *mel.shape[1:])


@cache
@torch.inference_mode(False)  # what is kept must serve training too
def mel_filters(sample_rate: int, bands: int, window: int) -> Tensor:
    """Triangles on Slaney's mel scale, from 0 Hz to half the sample rate: (window // 2 + 1, bands), columns sum to 1.

    Raises:
        ValueError: where a band is too narrow to hold a frequency of the STFT.
    """
    filters = _triangles(sample_rate, bands, window)
    if not (filters.sum(0) > 0).all():
        raise ValueError(f"{bands} mel bands are too many for a window of {window} samples: some would be empty")
    return filters / filters.sum(0)


@cache
@torch.inference_mode(False)  # what is kept must serve training too
def mel_bandwidths(sample_rate: int, bands: int, window: int) -> Tensor:
    """Share of the frequencies that each mel band stands for: (bands,), sums to 1."""
    widths = _triangles(sample_rate, bands, window).sum(0)
    return widths / widths.sum()


def _triangles(sample_rate: int, bands: int, window: int) -> Tensor:
    return functional.melscale_fbanks(
        window // 2 + 1, 0.0, sample_rate / 2, bands, sample_rate, norm=None, mel_scale="slaney"
    )


def griffin_lim(
    log_mels: Tensor, samples: int, sample_rate: int, window: int, hop: int, iterations: int = 32
) -> Tensor:
    """A waveform (..., samples) whose `log_mel` resembles `log_mels` (..., frames, bands): magnitudes alone, the phase
    guessed (Griffin and Lim 1984, with the momentum of Perraudin et al. 2013).

    The linear power spectrum is found by the multiplicative updates of Lee and Seung (2001), so it is never negative.
    """
    filters = mel_filters(sample_rate, log_mels.shape[-1], window).to(log_mels)
    hann = torch.hann_window(window, device=log_mels.device)
    wanted = (10 ** (log_mels / 10) * hann.square().sum()) @ filters.T
    power = torch.ones_like(wanted)
    for _ in range(NONNEGATIVE_ITERATIONS):
        power = power * wanted / (power @ filters @ filters.T).clamp(min=FLOOR)
    magnitudes = power.sqrt().reshape(-1, *power.shape[-2:]).transpose(1, 2)
    length = max(samples, window)  # shorter sound has nothing to reflect at its ends
    magnitudes = pad(magnitudes, (0, max(0, length // hop + 1 - magnitudes.shape[-1])))
    waveform = functional.griffinlim(
        magnitudes, hann, window, hop, window, power=1.0, n_iter=iterations, momentum=0.99, length=length,
        rand_init=False,
    )  # fmt: skip
    return waveform[:, :samples].reshape(*log_mels.shape[:-2], samples)


def with_phase_of(waveform: Tensor, log_mels: Tensor, sample_rate: int, window: int, hop: int) -> Tensor:
    """The waveform (samples,) with its own phase and, in the place of its own magnitudes, those that a log-mel
    spectrogram (frames, bands) in dB predicts."""
    filters = mel_filters(sample_rate, log_mels.shape[-1], window).to(log_mels)
    hann = torch.hann_window(window, device=waveform.device)
    power = (10 ** (log_mels / 10)) @ (filters / filters.sum(1, keepdim=True).clamp(min=FLOOR)).T * hann.square().sum()
    spectrum = torch.stft(waveform, window, hop, window=hann, center=True, pad_mode="constant", return_complex=True)
    changed = torch.polar(power.clamp(min=0).sqrt().T, spectrum.angle())
    return torch.istft(changed, window, hop, window=hann, center=True, length=len(waveform))


def mdct(waveform: Tensor, bins: int) -> Tensor:
    """Modified discrete cosine transform of a waveform (..., samples): (..., frames, bins), of which frames =
    ceil(samples / bins) + 1.

    Orthonormal, with the sine window: an error in coefficients is the same error in samples (Princen and Bradley 1986;
    Malvar 1992).
    """
    _check_waveform(waveform)
    samples = waveform.shape[-1]
    frames = math.ceil(samples / bins) + 1
    padded = pad(waveform, (bins, frames * bins - samples))
    window, before, after = _twiddles(bins, waveform.device)
    spectrum = torch.fft.fft(padded.unfold(-1, 2 * bins, bins) * window * before)
    return (spectrum[..., :bins] * after).real


def imdct(coefficients: Tensor, samples: int) -> Tensor:
    """The waveform (..., samples) of MDCT coefficients (..., frames, bins): the inverse, and transpose, of `mdct`."""
    frames, bins = coefficients.shape[-2:]
    if not 0 < samples <= (frames - 1) * bins:
        raise ValueError(f"{frames} frames of {bins} bins hold {(frames - 1) * bins} samples, not {samples}")
    window, before, after = _twiddles(bins, coefficients.device)
    spectrum = torch.fft.fft(coefficients * after, 2 * bins) * before
    overlapping = (spectrum.real * window).unflatten(-1, (2, bins))
    waveform = pad(overlapping[..., 0, :], (0, 0, 0, 1)) + pad(overlapping[..., 1, :], (0, 0, 1, 0))
    return waveform.flatten(-2)[..., bins : bins + samples]


@cache
@torch.inference_mode(False)  # what is kept must serve training too
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
