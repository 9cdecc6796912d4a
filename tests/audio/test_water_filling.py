"""Reverse water-filling and the variances that a spectrogram predicts: closed forms."""

import math

import pytest
import torch

from src.audio import water_filling
from src.audio.spectrogram import MelSpectrogram, mdct

MEL = MelSpectrogram(sample_rate=22050, bands=40, window=1024, hop=256)


@pytest.mark.parametrize(("missing", "restored"), [(0.0, 0.0), (0.004, 0.004), (0.01, 0.01), (5.0, 0.01)])
def test_fill_variance_of_white_noise_is_what_lacks_and_at_most_all(missing, restored):
    white = torch.full((1, 4 * 9 + 1, MEL.bands), -20.0)  # of variance 0.01
    long = 4 * MEL.hop
    short = water_filling.fill_variance(torch.full((1, 10, long), missing), white, MEL)
    torch.testing.assert_close(short, torch.full((1, 37, MEL.hop), restored), rtol=1e-4, atol=1e-9)


def test_fill_variance_begins_with_the_sound():
    onset = torch.full((1, 65, MEL.bands), -80.0)
    onset[:, 34:] = -20.0
    everything = water_filling.predicted_log_variance(onset, 8 * MEL.hop, 9, MEL).exp()
    assert everything[0, 4].min() > 1e-3  # the long frame from 24 to 40 hops is loud throughout
    short = water_filling.fill_variance(everything, onset, MEL)
    torch.testing.assert_close(short[:, :34], torch.full((1, 34, MEL.hop), 1e-8), rtol=1e-3, atol=0)
    torch.testing.assert_close(short[:, 35:], torch.full((1, 30, MEL.hop), 0.01), rtol=1e-3, atol=0)


def test_water_filling_follows_the_formula_above_the_level_and_closes_below():
    ratios = torch.tensor([10.0, 100.0, 1e6])
    torch.testing.assert_close(
        water_filling.posterior_log_noise(ratios.log()), (ratios / (ratios - 1)).log(), atol=1e-4, rtol=1e-3
    )
    assert water_filling.posterior_log_noise(torch.tensor([-2.0, -20.0])).diff() > 0
    assert water_filling.posterior_log_noise(torch.tensor([-20.0])) > 1.5


@pytest.mark.parametrize("bins", [128, 256, 1024])
def test_predicted_variance_of_white_noise_is_its_variance(bins):
    waveform = torch.randn(1, 60_000) * 0.1
    mel = MEL.log_mel(waveform)
    frames = mdct(waveform, bins).shape[1]
    predicted = water_filling.predicted_log_variance(mel, bins, frames, MEL)
    assert predicted.shape == (1, frames, bins)
    inside = predicted[:, 3:-3, bins // 16 :].exp()
    assert inside.mean().item() == pytest.approx(0.01, rel=0.03)


@pytest.mark.parametrize("samples", [100, 60_100, 60_250])
def test_the_last_frame_has_a_variance_too(samples):
    waveform = torch.randn(1, samples) * 0.1
    mel = MEL.log_mel(waveform)
    predicted = water_filling.predicted_log_variance(mel, 256, mdct(waveform, 256).shape[1], MEL)
    assert (predicted[:, -1, 20:].exp() > 1e-5).all()


def test_predicted_variance_follows_an_onset_and_a_low_pass():
    mel = torch.full((1, 40, MEL.bands), -80.0)
    mel[:, 20:, :20] = -10.0
    predicted = water_filling.predicted_log_variance(mel, 256, 40, MEL)
    assert predicted[0, 10].max() < -18 and predicted[0, 30, 2] == pytest.approx(math.log(0.1), abs=0.01)
    assert predicted[0, 30, 250] == pytest.approx(math.log(1e-8), abs=0.01)


def test_water_level_leaves_the_distortion_it_was_given():
    """Half of the frequencies hold noise of 0 dB, the rest of -20: at 10 dB below the power D fills both."""
    widths = MEL.bandwidths
    loud = widths.cumsum(0) < 0.5
    log_mel = torch.where(loud, 0.0, -20.0).expand(3, 7, -1)
    share = widths[loud].sum().item()
    power = share + (1 - share) * 0.01
    below = power / 10**0.5 - (1 - share) * 0.01  # at 5 dB the quiet half is left out, the loud one gets the rest
    level = water_filling.water_level(log_mel, torch.tensor([5.0, 30.0, 40.0]), MEL)
    wanted = torch.tensor([below / share, power * 1e-3, power * 1e-4]).log()
    torch.testing.assert_close(level, wanted, rtol=0, atol=1e-3)
