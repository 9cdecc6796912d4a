"""The two-latent VAE: closed forms that it starts from, causality of its priors, shapes."""

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from src import checkpoints
from src.audio import spectrogram, vae
from src.audio.spectrogram import MelSpectrogram
from src.audio.water_filling import LOG_POWER_PER_DB, water_level
from src.config import STEMS, AudioConfig
from src.errors import CheckpointError

CONFIG = AudioConfig(mel_bands=40, latent_dim=4, mel_channels=4, mel_hidden=16, fine_channels=6)
STEM = torch.eye(4)[[0, 3]]  # drums, vocals


def test_divergence_is_torchs():
    posterior = vae.Gaussian(torch.randn(5, 3), torch.randn(5, 3))
    prior = vae.Gaussian(torch.randn(5, 3), torch.randn(5, 3))
    first, second = (Normal(x.mean, (x.log_variance / 2).exp()) for x in (posterior, prior))
    torch.testing.assert_close(posterior.divergence(prior), kl_divergence(first, second))
    assert torch.equal(prior.divergence(prior), torch.zeros(5, 3))


@pytest.mark.parametrize("frames", [1, 4, 7, 30])
def test_mel_vae_keeps_the_shape_at_any_length(frames):
    model = vae.MelVAE(CONFIG)
    posterior = model.encode(torch.rand(2, frames, 40) * 60 - 70, STEM, torch.tensor([-40.0, -60.0]))
    assert posterior.mean.shape == posterior.log_variance.shape == (2, math.ceil(frames / 4), 4)
    decoded = model.decode(posterior.sample(torch.randn_like(posterior.mean)), STEM, frames)
    assert decoded.shape == (2, frames, 40)
    assert decoded.min() >= -95 and decoded.max() <= 20


def test_mel_prior_begins_as_autoregressive_and_knows_only_the_past():
    prior = vae.MelVAE(CONFIG).prior
    latent = torch.randn(2, 20, 4, requires_grad=True)
    begun = prior(latent, STEM)
    torch.testing.assert_close(begun.mean[:, 1:], 0.7 * latent[:, :-1])
    assert torch.equal(begun.mean[:, 0], torch.zeros(2, 4)) and torch.equal(begun.log_variance, torch.zeros(2, 20, 4))
    torch.nn.init.normal_(prior.out.weight)
    prior(latent, STEM).mean[:, 10].sum().backward()
    seen = latent.grad.abs().sum((0, 2)) > 0
    assert seen[9] and seen[:10].sum() >= 8
    assert not seen[10:].any()


@pytest.fixture
def fine() -> vae.FineVAE:
    return vae.FineVAE(16, channels=6, sample_rate=22050)


@pytest.mark.parametrize("ratio", [0.01, 4.0, 100.0])
def test_untrained_fine_vae_is_reverse_water_filling(fine, ratio):
    """Gaussian coefficients of variance P: rate ln(P / D) / 2 nats at distortion D, or nothing at distortion P."""
    log_variance = torch.full((1, 2000, 16), math.log(ratio))
    coefficients = torch.randn(1, 2000, 16) * math.sqrt(ratio)
    with torch.no_grad():
        output = fine(coefficients, log_variance, torch.randn(1, 2000, 16))
    rate = output.divergence.mean().item()
    distortion = (output.decoded - coefficients).square().mean().item()
    assert rate == pytest.approx(max(0, math.log(ratio) / 2), abs=0.03)
    assert distortion == pytest.approx(min(1, ratio), rel=0.05)
    assert output.missing.mean().item() == pytest.approx(distortion, rel=0.05)  # what `fill` would restore


def test_prior_of_a_frame_reads_earlier_frames_only(fine):
    torch.nn.init.normal_(fine.variance.weight)
    coefficients = torch.randn(1, 12, 16, requires_grad=True)
    output = fine(coefficients, torch.full((1, 12, 16), 2.0), torch.randn(1, 12, 16))
    # A frame's divergence depends on its own coefficients, and through the prior on those before; never on later ones.
    output.divergence[:, 6].sum().backward()
    seen = coefficients.grad.abs().sum((0, 2)) > 0
    assert seen[:7].all()
    assert not seen[7:].any()


def test_coefficients_far_below_the_level_carry_nothing(fine):
    for parameter in fine.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    log_variance = torch.full((1, 20, 16), 2.0)
    log_variance[..., 10:] = -4.0
    coefficients = torch.randn(1, 20, 16)
    output = fine(coefficients, log_variance, torch.randn(1, 20, 16))
    assert not output.divergence[..., 10:].any() and not output.decoded[..., 10:].any()
    assert output.divergence[..., :10].all() and output.decoded[..., :10].all()
    torch.testing.assert_close(output.missing[..., 10:], torch.full((1, 20, 6), math.exp(-4)))


def test_past_energy_is_the_forgetting_mean():
    energy = torch.rand(2, 80, 3, generator=torch.Generator().manual_seed(0))
    result = vae.past_energy(energy)
    for frame in (0, 5, 31, 79):
        lags = torch.arange(min(frame + 1, vae.MEMORY))
        weights = vae.FORGETTING**lags
        expected = torch.einsum("t,btk->bk", weights / weights.sum(), energy[:, frame - lags])
        torch.testing.assert_close(result[:, frame], expected)


@pytest.mark.parametrize("stem", range(4))
def test_stem_vae_codes_a_waveform_near_the_ratio_asked_for(stem):
    """Untrained, `z_mel` knows nothing; with the true mel in its place the closed form reaches what was asked."""
    model = vae.StemVAE(replace(CONFIG, mdct_bins=(256, 1024, 512, 512)))
    waveform = torch.randn(2, 12_000) * torch.tensor([[0.1], [0.01]])
    model.mel.decode = lambda latent, stems, frames: model.log_mel(waveform)
    wanted = torch.tensor([8.0, 15.0])
    with torch.no_grad():
        log_mel = model.log_mel(waveform)
        output = model(waveform, log_mel, stem, water_level(log_mel, wanted, model.spectrogram))
    decoded = spectrogram.imdct(output.coefficients, 12_000)
    reached = 10 * torch.log10(waveform.square().sum(1) / (waveform - decoded).square().sum(1))
    torch.testing.assert_close(reached, wanted, atol=1.5, rtol=0)
    nats = 12_000 * wanted * LOG_POWER_PER_DB / 2  # white noise: ln(P / D) / 2 nats a sample
    torch.testing.assert_close(output.fine_divergence.sum(1), nats, rtol=0.1, atol=0)
    assert (output.mel_divergence.sum(1) > 0).all()


def test_every_weight_of_the_stem_vae_learns():
    model = vae.StemVAE(replace(CONFIG, mdct_bins=(256, 1024, 512, 512)))
    for parameter in model.parameters():  # heads that begin at zero block the gradient behind them
        torch.nn.init.normal_(parameter, 0, 0.1)
    for stem in range(4):
        waveform = torch.randn(1, 8000) * 0.1
        output = model(waveform, model.log_mel(waveform), stem, torch.tensor([-7.0]))
        (output.mel_divergence.sum() + output.fine_divergence.sum() + output.distortion.sum() / 2).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_mel_patterns_are_orthonormal_and_keep_what_is_smooth():
    patterns = vae.cosine_patterns(16, 20)
    torch.testing.assert_close(patterns.T @ patterns, torch.eye(20), atol=1e-5, rtol=0)
    mel = MelSpectrogram(4000, 16, 256, 64).log_mel(torch.randn(1, 4000))
    whole = vae.cosine_patterns(16, 64)
    patch = mel[0, :4].flatten()
    torch.testing.assert_close(whole @ (whole.T @ patch), patch, atol=1e-3, rtol=1e-4)


def test_closed_form_keeps_the_mel_and_drops_what_was_learned():
    torch.manual_seed(1)
    model = vae.StemVAE(CONFIG).eval()
    for parameter in model.fine.parameters():
        torch.nn.init.normal_(parameter, 0, 0.1)
    plain = vae.closed_form(model)
    for name, parameter in model.mel.named_parameters():
        assert torch.equal(parameter, plain.mel.get_parameter(name))
    untrained = vae.FineVAE(256, 6, 22050)
    coefficients, log_variance, noise = torch.randn(1, 10, 256), torch.full((1, 10, 256), 2.0), torch.randn(1, 10, 256)
    with torch.no_grad():
        expected = untrained(coefficients, log_variance, noise)
        output = plain.fine[0](coefficients, log_variance, noise)
    torch.testing.assert_close(output.divergence, expected.divergence)
    assert any(p.abs().sum() > 0 for head in ("noise", "gain") for p in getattr(model.fine[0], head).parameters())


def test_the_spectrogram_adds_no_weight_and_labels_are_one_hot():
    model = vae.StemVAE(CONFIG)
    assert {name.split(".")[0] for name in model.state_dict()} == {"mel", "fine"}
    assert torch.equal(torch.cat([vae.one_hot_stem(stem) for stem in STEMS]), torch.eye(4))
    assert torch.equal(vae.one_hot_stem("bass", 2), torch.eye(4)[[1, 1]])


def test_normalising_is_undone_within_its_range():
    decibels = torch.tensor([-80.0, -50.0, 0.0, 20.0])
    torch.testing.assert_close(vae.denormalise(vae.normalise(decibels)), decibels)
    assert vae.normalise(torch.tensor([-100.0, 50.0])).tolist() == vae.normalise(torch.tensor([-80.0, 20.0])).tolist()


def test_foreign_weights_are_refused(tmp_path):
    checkpoints.save_weights(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, {"config": {}})
    with pytest.raises(CheckpointError, match="is not a stem VAE"):
        vae.load_model(tmp_path / "other.safetensors")
