"""The audio metrics, held to museval, torchmetrics' definitions and closed forms."""

import math

import numpy as np
import pytest
import torch

from src.audio import data, metrics

RATE = 2000


@pytest.fixture
def music() -> torch.Tensor:
    time = torch.arange(3 * RATE) / RATE
    return 0.3 * torch.sin(2 * math.pi * 110 * time) + 0.05 * torch.randn(3 * RATE)


def with_noise(signal: torch.Tensor, decibels: float) -> torch.Tensor:
    """`signal` plus noise at exactly this signal-to-noise ratio."""
    noise = torch.randn_like(signal)
    return signal + noise * signal.norm() / noise.norm() * 10 ** (-decibels / 20)


def test_sdr_is_musevals_in_every_window(music):
    data.ensure_ffmpeg()
    import museval  # here, since importing it demands ffmpeg

    reference = torch.stack([music, music.flip(0)])
    estimate = torch.stack([with_noise(music, 10), with_noise(music.flip(0), 20)])
    theirs = museval.evaluate(reference[..., None].numpy().astype(float), estimate[..., None].numpy().astype(float),
                              win=RATE, hop=RATE)[0]  # fmt: skip
    assert np.allclose(metrics.sdr_museval(reference, estimate, RATE).numpy(), theirs, atol=1e-3)


def test_noise_at_a_known_ratio(music):
    for decibels in (-3.0, 0.0, 18.2):
        estimate = with_noise(music, decibels)
        assert metrics.sdr_global(music, estimate) == pytest.approx(decibels, abs=1e-3)
        assert metrics.snr(music, estimate) == pytest.approx(decibels, abs=0.1)
        assert metrics.mse(music, estimate) == pytest.approx(
            music.square().mean().item() * 10 ** (-decibels / 10), rel=1e-3
        )


def test_a_scaled_copy_is_forgiven_by_si_sdr_alone(music):
    assert metrics.sdr_global(music, 0.5 * music) == pytest.approx(20 * math.log10(2), abs=1e-3)
    assert metrics.si_sdr(music, 0.5 * music) > 60


def test_a_delayed_copy_is_forgiven_by_none():
    noise = torch.randn(50_000)  # a copy shifted by one sample is uncorrelated: twice the power is error
    assert metrics.sdr_global(noise[1:], noise[:-1]) == pytest.approx(-10 * math.log10(2), abs=0.1)
    assert metrics.si_sdr(noise[1:], noise[:-1]) < -20


def test_snr_ignores_a_constant_and_sdr_does_not(music):
    music = music - music.mean()
    assert metrics.snr(music, music + 0.3) > 60
    assert metrics.sdr_global(music, music + 0.3) < 10


def test_silence(music):
    silence = torch.zeros_like(music)
    assert metrics.sdr_global(music, silence) == pytest.approx(0)
    for metric in (metrics.sdr_global, metrics.si_sdr, metrics.snr):
        assert metric(silence, music).isnan()
    assert metrics.mse(silence, silence) == 0
    half = torch.cat([music[:RATE], silence[:RATE]])
    assert metrics.sdr_museval(half, half * 0.9, RATE).isnan().tolist() == [False, True]


def test_exact_copy(music):
    assert metrics.sdr_global(music, music) == math.inf
    assert metrics.stft_distance(music, music) == 0


def test_one_sample():
    one = torch.tensor([0.5])
    assert metrics.sdr_global(one, one / 2) == pytest.approx(20 * math.log10(2))
    assert metrics.mse(one, one / 2) == pytest.approx(0.0625)
    with pytest.raises(ValueError, match="less than one window"):
        metrics.sdr_museval(one, one, RATE)


def test_stft_distance_of_a_scaled_copy(music):
    # Spectral convergence |1 - a|, log difference |ln a|, but for the bins at the floor.
    assert metrics.stft_distance(music, music / 2) == pytest.approx(0.5 + math.log(2), rel=0.03)


def test_log_mel_error_counts_audible_bins_only():
    reference = torch.tensor([[0.0, -20.0], [-59.0, -80.0]])
    estimate = reference + torch.tensor([[3.0, 3.0], [3.0, 50.0]])
    assert metrics.log_mel_error(reference, estimate) == pytest.approx(3)


@pytest.mark.parametrize("metric", [metrics.sdr_global, metrics.si_sdr, metrics.snr, metrics.mse,
                                    metrics.stft_distance])  # fmt: skip
def test_batches_agree_with_single_ones_and_bad_input_is_refused(metric, music):
    reference = torch.stack([music, music.flip(0)])
    estimate = with_noise(reference, 12)
    batched = metric(reference, estimate)
    assert batched.shape == (2,)
    assert batched[1].item() == pytest.approx(metric(reference[1], estimate[1]).item(), rel=1e-5)
    with pytest.raises(ValueError, match="must agree"):
        metric(music, music[:-1])
    with pytest.raises(ValueError, match="not finite"):
        metric(music, music * math.nan)


def test_median_is_numpys_and_leaves_out_what_is_undefined():
    values = torch.tensor([3.0, 1.0, torch.nan, 10.0, 2.0])
    assert metrics.median(values) == np.nanmedian(values.numpy()) == 2.5
    assert np.isnan(metrics.median(torch.tensor([torch.nan])))


def test_predicted_opinion_is_best_for_the_same_and_falls_with_noise():
    pytest.importorskip("zimtohrli")
    sound = (0.3 * torch.sin(torch.arange(22050) / 22050 * 2 * torch.pi * 440)).numpy()
    noise = torch.randn(22050).numpy()
    scores = [metrics.zimtohrli_mos(sound, sound + level * noise, 22050) for level in (0.0, 0.01, 0.3)]
    assert scores[0] == pytest.approx(5, abs=0.1)
    assert scores[0] > scores[1] > scores[2] >= 1


def test_without_its_package_no_opinion_is_made_up(monkeypatch):
    monkeypatch.setattr(metrics, "_zimtohrli", lambda: None)
    assert metrics.zimtohrli_mos(np.zeros(100, np.float32), np.zeros(100, np.float32), 22050) is None
