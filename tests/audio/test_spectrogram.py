"""The transforms, held to librosa, scipy and closed forms."""

import math

import librosa
import numpy as np
import pytest
import torch
from scipy.fft import dct

from src.audio import spectrogram
from src.audio.spectrogram import MelSpectrogram
from src.config import AudioConfig

RATE = 22050
MEL_40, MEL_64 = (MelSpectrogram(RATE, bands, window=1024, hop=256) for bands in (40, 64))


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape) * 0.1


@pytest.mark.parametrize("samples", [1, 7, 255, 256, 257, 1000, 150_016 // 16 + 1])
@pytest.mark.parametrize("bins", [64, 256])
def test_mdct_loses_nothing_at_any_length(samples, bins):
    waveform = torch.rand(samples) * 2 - 1
    again = spectrogram.imdct(spectrogram.mdct(waveform, bins), samples)
    assert (again - waveform).abs().max() < 1e-5


def test_mdct_is_its_definition():
    bins = 8
    waveform = torch.randn(3 * bins)
    padded = torch.cat([torch.zeros(bins), waveform, torch.zeros(bins)]).double()
    n, k = torch.arange(2 * bins).double(), torch.arange(bins).double()
    window = torch.sin(math.pi * (n + 0.5) / (2 * bins))
    kernel = torch.cos(math.pi / bins * (n[:, None] + 0.5 + bins / 2) * (k + 0.5)) * math.sqrt(2 / bins)
    expected = torch.stack([(padded[i * bins : (i + 2) * bins] * window) @ kernel for i in range(4)])
    assert torch.allclose(spectrogram.mdct(waveform, bins).double(), expected, atol=1e-5)


def test_mdct_is_scipys_dct_iv_of_the_folded_frames():
    bins = 64
    waveform = noise(5 * bins)
    padded = np.pad(waveform.numpy(), bins)
    window = np.sin(np.pi * (np.arange(2 * bins) + 0.5) / (2 * bins))
    half = bins // 2
    for frame, coefficients in enumerate(spectrogram.mdct(waveform, bins)):
        a, b, c, d = (padded[frame * bins : (frame + 2) * bins] * window).reshape(4, half)
        folded = np.concatenate([-c[::-1] - d, a - b[::-1]])
        assert np.allclose(coefficients.numpy(), dct(folded, type=4, norm="ortho"), atol=1e-5)


def test_mdct_keeps_energy_and_is_batched():
    waveform = noise(2, 3, 5000)
    coefficients = spectrogram.mdct(waveform, 128)
    assert coefficients.shape == (2, 3, math.ceil(5000 / 128) + 1, 128)
    assert torch.allclose(coefficients.square().sum((-1, -2)), waveform.square().sum(-1), rtol=1e-5)
    assert torch.equal(coefficients[1, 2], spectrogram.mdct(waveform[1, 2], 128))


def test_mdct_and_its_inverse_are_differentiable():
    loss = spectrogram.imdct(spectrogram.mdct(waveform := noise(500).requires_grad_(), 64), 500).square().sum()
    loss.backward()
    assert torch.allclose(waveform.grad, 2 * waveform, atol=1e-5)


def test_imdct_refuses_more_samples_than_there_are():
    with pytest.raises(ValueError, match="hold 128 samples, not 129"):
        spectrogram.imdct(torch.zeros(3, 64), 129)


def test_log_mel_is_librosas():
    waveform = noise(8000)
    ours = MEL_64.log_mel(waveform)
    power = librosa.feature.melspectrogram(
        y=waveform.numpy(), sr=RATE, n_fft=1024, hop_length=256, n_mels=64, norm=None, pad_mode="constant"
    )
    filters = librosa.filters.mel(sr=RATE, n_fft=1024, n_mels=64, norm=None)
    power /= filters.sum(1)[:, None] * np.square(np.hanning(1025)[:-1]).sum()
    assert ours.shape == (8000 // 256 + 1, 64)
    assert np.allclose(ours.numpy(), 10 * np.log10(power.T), atol=2e-3)


def test_log_mel_of_white_noise_reads_its_variance():
    mel = MEL_40.log_mel(torch.randn(200_000) * 0.1)
    assert (10 ** (mel[4:-4] / 10)).mean() == pytest.approx(0.01, rel=0.02)


def test_log_mel_of_silence_is_the_floor_and_has_a_gradient():
    waveform = torch.zeros(2000, requires_grad=True)
    mel = MEL_40.log_mel(waveform)
    mel.sum().backward()
    assert torch.equal(mel, torch.full_like(mel, -100.0))
    assert torch.isfinite(waveform.grad).all()


def test_empty_bands_are_refused():
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="too many"):
        _ = MelSpectrogram(RATE, 200, 512, 256).filters


@pytest.mark.parametrize("samples", [1, 100, 512])
def test_griffin_lim_of_less_than_a_window_has_the_length_asked_for(samples):
    noise = torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    mel = MEL_40.log_mel(noise)
    guessed = MEL_40.griffin_lim(mel, samples)
    assert guessed.shape == (2, samples) and guessed.isfinite().all()


def test_griffin_lim_finds_a_waveform_of_the_same_spectrogram():
    time = torch.arange(11_025) / RATE
    chord = sum(0.2 * torch.sin(2 * math.pi * frequency * time) for frequency in (220.0, 440.0, 660.0))
    mel = MEL_64.log_mel(chord)
    again = MEL_64.griffin_lim(mel, len(chord))
    assert again.shape == chord.shape

    def error(waveform: torch.Tensor) -> float:
        """In dB, over bins within 30 dB of the loudest."""
        heard = MEL_64.log_mel(waveform)
        return (heard - mel)[mel > mel.max() - 30].square().mean().sqrt().item()

    guessed_once = MEL_64.griffin_lim(mel, len(chord), iterations=1)
    assert error(again) < 3 < error(guessed_once)
    assert torch.equal(again, MEL_64.griffin_lim(mel, len(chord)))


def test_mel_bandwidths_share_out_all_frequencies():
    widths = MelSpectrogram(22050, 80, 1024, 256).bandwidths
    centres = torch.linspace(0, 11025, 513) @ MelSpectrogram(22050, 80, 1024, 256).filters
    spacing = (centres[2:] - centres[:-2]) / 2
    assert widths.sum().item() == pytest.approx(1)
    torch.testing.assert_close(widths[41:-1], spacing[40:] / 11025, rtol=0.1, atol=0)  # the wide bands, least quantised


def test_the_power_of_a_frame_is_that_of_the_sound():
    mel = MelSpectrogram(RATE, 80, 1024, 256)
    power = mel.power(mel.log_mel(0.1 * torch.randn(2, 100_000)))
    assert power.shape == (2, mel.frames(100_000))
    torch.testing.assert_close(power.mean(dim=1), torch.full((2,), 0.01), rtol=0.05, atol=0)
    one_band = torch.full((3, 80), -100.0)
    one_band[:, 70] = 0
    torch.testing.assert_close(mel.power(one_band), mel.bandwidths[70].expand(3))


def test_own_phase_with_own_magnitudes_gives_nearly_the_same_sound():
    """White noise, whose mel says all there is to its power: right phases and expected magnitudes correlate well."""
    noise = torch.randn(20_000) * 0.1
    mel_80 = MelSpectrogram(RATE, 80, 1024, 256)
    again = mel_80.with_phase_of(noise, mel_80.log_mel(noise))
    assert again.shape == noise.shape
    assert torch.corrcoef(torch.stack([noise, again]))[0, 1] > 0.8
    assert again.square().mean().item() == pytest.approx(0.01, rel=0.3)


def test_the_object_is_that_of_the_configuration_and_counts_its_frames():
    mel = MelSpectrogram.from_config(AudioConfig())
    assert mel == MelSpectrogram(sample_rate=22050, bands=80, window=1024, hop=256)
    for samples in (1, 255, 256, 10_000):
        assert mel.log_mel(torch.ones(samples)).shape == (mel.frames(samples), 80)


def test_changing_the_filters_that_were_given_out_changes_nothing():
    mel = MelSpectrogram(22050, 40, 1024, 256)
    expected = mel.filters, mel.bandwidths
    mel.filters.zero_()
    mel.bandwidths.zero_()
    assert torch.equal(mel.filters, expected[0]) and torch.equal(mel.bandwidths, expected[1])
