"""Generating and interpolating: the prior that is sampled, determinism, shapes."""

import pytest
import torch

from src import runtime
from src.audio import generate, vae
from src.config import STEMS

RATE = 22050


def test_sampled_latents_follow_the_prior_that_scores_them(model, monkeypatch):
    """Frame by frame through a window of the past, or all at once over the whole sequence: the same prior."""
    seen = {}
    decode = model.mel.decode
    monkeypatch.setattr(
        model.mel, "decode", lambda latent, stems, frames: seen.update(latent=latent) or decode(latent, stems, frames)
    )
    mels = generate.sample_log_mels(model, "drums", 2, 3.0, seed=7)
    assert mels.shape == (2, int(3 * RATE) // 256 + 1, 40)
    with torch.no_grad():
        prior = model.mel.prior(seen["latent"], vae.one_hot_stem("drums", 2))
    noise = (seen["latent"] - prior.mean) / (prior.log_variance / 2).exp()
    again = generate.sample_log_mels(model, "drums", 1, 3.0, seed=7)
    torch.testing.assert_close(again, mels[:1], atol=1e-3, rtol=0)
    for row in range(2):
        drawn = torch.randn(noise.shape[1:], generator=runtime.random_stream(7, STEMS.index("drums"), row))
        torch.testing.assert_close(noise[row], drawn, atol=1e-3, rtol=0)


def test_generated_sound_has_the_length_asked_for(model):
    assert generate.sample(model, "vocals", count=2, seconds=0.5).shape == (2, RATE // 2)
    with pytest.raises(ValueError, match="unknown stem"):
        generate.sample(model, "flute")
    with pytest.raises(ValueError, match="at least 1"):
        generate.sample(model, "vocals", count=0)
    with pytest.raises(ValueError, match="1e-06 s"):
        generate.sample(model, "vocals", seconds=1e-6)


def test_interpolation_ends_at_the_posteriors_of_its_ends(model, sound):
    first, second = torch.from_numpy(sound[:30_000]), torch.from_numpy(sound[50_000:90_000])
    path = generate.interpolate(model, first, second, ("bass", "vocals"), steps=3)
    assert path.shape == (3, 30_000 // 256 + 1, 40)
    same = generate.interpolate(model, first, first, ("bass", "bass"), steps=2)
    torch.testing.assert_close(same[0], path[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(same[0], same[1], atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="at least its 2 ends"):
        generate.interpolate(model, first, second, ("bass", "vocals"), steps=1)


@pytest.mark.parametrize("stem", STEMS)
def test_sound_of_the_published_model_is_finite(stem):
    """Without the limits of `latent_range`, the vocals of some of these seeds diverge."""
    model = vae.load_model()
    assert torch.isfinite(model.latent_range).all()
    log_mels = torch.cat([generate.sample_log_mels(model, stem, 20, 6.0, seed) for seed in range(5)])
    assert torch.isfinite(log_mels).all()
