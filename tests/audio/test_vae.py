"""The two-latent VAE: closed forms that it starts from, causality of its priors, shapes."""

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from src.audio import spectrogram, vae
from src.config import AudioConfig

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
        said = fine(coefficients, log_variance, torch.randn(1, 2000, 16))
    rate = said.divergence.mean().item()
    distortion = (said.decoded - coefficients).square().mean().item()
    assert rate == pytest.approx(max(0, math.log(ratio) / 2), abs=0.03)
    assert distortion == pytest.approx(min(1, ratio), rel=0.05)
    assert said.missing.mean().item() == pytest.approx(distortion, rel=0.05)  # what `fill` would restore


def test_prior_of_a_frame_reads_earlier_frames_only(fine):
    torch.nn.init.normal_(fine.variance.weight)
    coefficients = torch.randn(1, 12, 16, requires_grad=True)
    said = fine(coefficients, torch.full((1, 12, 16), 2.0), torch.randn(1, 12, 16))
    # A frame's divergence depends on its own coefficients, and through the prior on those before; never on later ones.
    said.divergence[:, 6].sum().backward()
    seen = coefficients.grad.abs().sum((0, 2)) > 0
    assert seen[:7].all()
    assert not seen[7:].any()


def test_coefficients_far_below_the_level_carry_nothing(fine):
    for parameter in fine.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    log_variance = torch.full((1, 20, 16), 2.0)
    log_variance[..., 10:] = -4.0
    coefficients = torch.randn(1, 20, 16)
    said = fine(coefficients, log_variance, torch.randn(1, 20, 16))
    assert not said.divergence[..., 10:].any() and not said.decoded[..., 10:].any()
    assert said.divergence[..., :10].all() and said.decoded[..., :10].all()
    torch.testing.assert_close(said.missing[..., 10:], torch.full((1, 20, 6), math.exp(-4)))


def coded(decoded_mel: torch.Tensor, missing: torch.Tensor) -> vae.Coded:
    """What `missing_variance` reads of it."""
    nothing = torch.zeros(1)
    return vae.Coded(nothing, nothing, nothing, decoded_mel, decoded_mel, torch.zeros_like(missing), missing)


@pytest.mark.parametrize(("missing", "restored"), [(0.0, 0.0), (0.004, 0.004), (0.01, 0.01), (5.0, 0.01)])
def test_missing_variance_of_white_noise_is_what_lacks_and_at_most_all(missing, restored):
    white = torch.full((1, 4 * 9 + 1, CONFIG.mel_bands), -20.0)  # of variance 0.01
    long = 4 * CONFIG.mel_hop
    short = vae.missing_variance(coded(white, torch.full((1, 10, long), missing)), CONFIG)
    torch.testing.assert_close(short, torch.full((1, 37, CONFIG.mel_hop), restored), rtol=1e-4, atol=1e-9)


def test_missing_variance_begins_with_the_sound():
    onset = torch.full((1, 65, CONFIG.mel_bands), -80.0)
    onset[:, 34:] = -20.0
    everything = vae.predicted_log_variance(onset, 8 * CONFIG.mel_hop, 9, CONFIG).exp()
    assert everything[0, 4].min() > 1e-3  # the long frame from 24 to 40 hops is loud throughout
    short = vae.missing_variance(coded(onset, everything), CONFIG)
    torch.testing.assert_close(short[:, :34], torch.full((1, 34, CONFIG.mel_hop), 1e-8), rtol=1e-3, atol=0)
    torch.testing.assert_close(short[:, 35:], torch.full((1, 30, CONFIG.mel_hop), 0.01), rtol=1e-3, atol=0)


def test_past_energy_is_the_forgetting_mean():
    energy = torch.rand(2, 80, 3, generator=torch.Generator().manual_seed(0))
    result = vae.past_energy(energy)
    for frame in (0, 5, 31, 79):
        lags = torch.arange(min(frame + 1, vae.MEMORY))
        weights = vae.FORGETTING**lags
        expected = torch.einsum("t,btk->bk", weights / weights.sum(), energy[:, frame - lags])
        torch.testing.assert_close(result[:, frame], expected)


def test_water_filling_follows_the_formula_above_the_level_and_closes_below():
    ratios = torch.tensor([10.0, 100.0, 1e6])
    torch.testing.assert_close(vae.water_filling(ratios.log()), (ratios / (ratios - 1)).log(), atol=1e-4, rtol=1e-3)
    assert vae.water_filling(torch.tensor([-2.0, -20.0])).diff() > 0
    assert vae.water_filling(torch.tensor([-20.0])) > 1.5


@pytest.mark.parametrize("bins", [128, 256, 1024])
def test_predicted_variance_of_white_noise_is_its_variance(bins):
    waveform = torch.randn(1, 60_000) * 0.1
    mel = spectrogram.log_mel(waveform, 22050, CONFIG.mel_bands, CONFIG.mel_window, CONFIG.mel_hop)
    frames = spectrogram.mdct(waveform, bins).shape[1]
    predicted = vae.predicted_log_variance(mel, bins, frames, CONFIG)
    assert predicted.shape == (1, frames, bins)
    inside = predicted[:, 3:-3, bins // 16 :].exp()
    assert inside.mean().item() == pytest.approx(0.01, rel=0.03)


@pytest.mark.parametrize("samples", [100, 60_100, 60_250])
def test_the_last_frame_has_a_variance_too(samples):
    waveform = torch.randn(1, samples) * 0.1
    mel = spectrogram.log_mel(waveform, 22050, CONFIG.mel_bands, CONFIG.mel_window, CONFIG.mel_hop)
    predicted = vae.predicted_log_variance(mel, 256, spectrogram.mdct(waveform, 256).shape[1], CONFIG)
    assert (predicted[:, -1, 20:].exp() > 1e-5).all()


def test_predicted_variance_follows_an_onset_and_a_low_pass():
    mel = torch.full((1, 40, CONFIG.mel_bands), -80.0)
    mel[:, 20:, :20] = -10.0
    predicted = vae.predicted_log_variance(mel, 256, 40, CONFIG)
    assert predicted[0, 10].max() < -18 and predicted[0, 30, 2] == pytest.approx(math.log(0.1), abs=0.01)
    assert predicted[0, 30, 250] == pytest.approx(math.log(1e-8), abs=0.01)


def test_water_level_leaves_the_distortion_it_was_given():
    """Half of the frequencies hold noise of 0 dB, the rest of -20: at 10 dB below the power D fills both."""
    widths = spectrogram.mel_bandwidths(22050, CONFIG.mel_bands, CONFIG.mel_window)
    loud = widths.cumsum(0) < 0.5
    log_mel = torch.where(loud, 0.0, -20.0).expand(3, 7, -1)
    share = widths[loud].sum().item()
    power = share + (1 - share) * 0.01
    below = power / 10**0.5 - (1 - share) * 0.01  # at 5 dB the quiet half is left out, the loud one gets the rest
    level = vae.water_level(log_mel, torch.tensor([5.0, 30.0, 40.0]), CONFIG)
    wanted = torch.tensor([below / share, power * 1e-3, power * 1e-4]).log()
    torch.testing.assert_close(level, wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("stem", range(4))
def test_stem_vae_codes_a_waveform_near_the_ratio_asked_for(stem):
    """Untrained, `z_mel` knows nothing; with the true mel in its place the closed form reaches what was asked."""
    model = vae.StemVAE(replace(CONFIG, mdct_bins=(256, 1024, 512, 512)))
    waveform = torch.randn(2, 12_000) * torch.tensor([[0.1], [0.01]])
    model.mel.decode = lambda latent, stems, frames: model.log_mel(waveform)
    wanted = torch.tensor([8.0, 15.0])
    with torch.no_grad():
        coded = model(waveform, stem, vae.water_level(model.log_mel(waveform), wanted, model.config))
    decoded = spectrogram.imdct(coded.coefficients, 12_000)
    reached = 10 * torch.log10(waveform.square().sum(1) / (waveform - decoded).square().sum(1))
    torch.testing.assert_close(reached, wanted, atol=1.5, rtol=0)
    nats = 12_000 * wanted * vae.NEPERS_PER_DB / 2  # white noise: ln(P / D) / 2 nats a sample
    torch.testing.assert_close(coded.fine_divergence.sum(1), nats, rtol=0.1, atol=0)
    assert (coded.mel_divergence.sum(1) > 0).all()


def test_every_weight_of_the_stem_vae_learns():
    model = vae.StemVAE(replace(CONFIG, mdct_bins=(256, 1024, 512, 512)))
    for parameter in model.parameters():  # heads that begin at zero block the gradient behind them
        torch.nn.init.normal_(parameter, 0, 0.1)
    for stem in range(4):
        coded = model(torch.randn(1, 8000) * 0.1, stem, torch.tensor([-7.0]))
        (coded.mel_divergence.sum() + coded.fine_divergence.sum() + coded.distortion.sum() / 2).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
