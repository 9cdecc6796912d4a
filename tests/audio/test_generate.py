"""Generated sound: determinism, lengths and bounds; variations, continuations, interpolations."""

import numpy as np
import pytest
import torch

from src.audio import flow, generate
from src.audio.spectrogram import MelSpectrogram
from src.config import FlowConfig

RATE = 22050
MEL = MelSpectrogram(RATE, 40, 1024, 256)


@pytest.fixture(scope="module")
def small_flow() -> flow.StemFlow:
    """Untrained, with every weight at random, so that nothing is a special case."""
    torch.manual_seed(1)
    model = flow.StemFlow(
        FlowConfig(mel_bands=40, latent_dim=8, width=16, blocks=2, style_means=4, style_deviations=2)
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.05)
    model.mean[0] = 10.0  # about -30 dB
    model.rest_deviation.fill_(0.1)
    model.rest_weights.normal_(0, 0.02)
    model.styles.normal_()
    return model


@pytest.fixture(scope="module")
def tone() -> torch.Tensor:
    """Two seconds of a chord."""
    times = torch.arange(2 * RATE) / RATE
    return sum(torch.sin(2 * torch.pi * frequency * times) for frequency in (220, 330, 550)) * 0.1


def test_a_sample_depends_on_stem_seed_and_number_alone(small_flow):
    three = generate.sample(small_flow, "drums", 3, 1.0, seed=7)
    assert three.shape == (3, RATE)
    assert three.dtype == np.float32
    assert np.array_equal(generate.sample(small_flow, "drums", 1, 1.0, seed=7), three[:1])
    assert not np.allclose(three[0], three[1])
    for other in (("bass", 7), ("drums", 8)):
        assert not np.allclose(generate.sample(small_flow, other[0], 1, 1.0, seed=other[1])[0], three[0])


@pytest.mark.parametrize("seconds", [1 / RATE, 0.01, 0.5, 13.7])
def test_a_sample_has_the_length_asked_for_and_stays_below_full_scale(small_flow, seconds):
    waveform = generate.sample(small_flow, "vocals", 1, seconds)[0]
    assert len(waveform) == int(seconds * RATE)
    assert np.isfinite(waveform).all()
    assert np.abs(waveform).max() <= 1


def test_wrong_arguments_are_refused(small_flow, tone):
    for arguments, message in (
        (("flute",), "unknown stem"),
        (("vocals", 0), "count is 0: it must be at least 1"),
        (("vocals", 1, 1e-6), "seconds is 1e-06: it must lie between 1/22050, one sample, and 600"),
        (("vocals", 1, 601.0), "seconds is 601"),
        (("vocals", 1, float("nan")), "seconds is nan"),
    ):
        with pytest.raises(ValueError, match=message):
            generate.sample(small_flow, *arguments)
    with pytest.raises(ValueError, match="between 0 and 1"):
        generate.vary(small_flow, tone, "bass", strength=1.5)
    for function in (generate.vary, generate.extend):
        with pytest.raises(ValueError, match=r"lasts 0\.05 s"):
            function(small_flow, tone[:1024], "bass")
        with pytest.raises(ValueError, match=r"the recording has a peak of .*: divide samples"):
            function(small_flow, 32_768 * tone, "bass")
        with pytest.raises(ValueError, match="the recording holds values that are not finite"):
            function(small_flow, torch.full_like(tone, torch.nan), "bass")
    with pytest.raises(ValueError, match="seconds is 601"):
        generate.extend(small_flow, tone, "bass", 601.0)


def test_only_the_surroundings_of_a_peak_are_made_quieter():
    tone = 0.5 * np.sin(np.arange(48_000, dtype=np.float32) / 5)
    assert np.array_equal(generate.limit(tone, 8000), tone)
    tone[:2], tone[20_000], tone[20_100] = 1.5, -4.0, 2.0
    limited = generate.limit(tone, 8000)
    assert limited.dtype == np.float32
    assert limited[20_000] == pytest.approx(-1.0, abs=1e-5)
    assert np.abs(limited).max() <= 1
    reach = round(0.05 * 8000)
    untouched = np.r_[reach + 2 : 20_000 - reach, 20_101 + reach : 48_000]
    assert np.array_equal(limited[untouched], tone[untouched])
    gain = limited[20_000 - reach : 20_000] / tone[20_000 - reach : 20_000]
    assert (np.diff(gain[np.isfinite(gain)]) < 1e-6).all()  # it turns down smoothly
    assert np.abs(np.diff(gain)).max() < 0.01


def test_phase_found_in_blocks_is_as_good_as_at_once(tone):
    """Four blocks, against one: the same error of the spectrogram, also where the blocks join."""
    stream = torch.Generator().manual_seed(0)
    sound = tone.repeat(10) * (1 + torch.sin(torch.arange(20 * RATE) / RATE * 9)) / 2
    sound = sound + 0.01 * torch.randn(len(sound), generator=stream)
    log_mel = MEL.log_mel(sound)
    waveforms = (
        torch.from_numpy(generate.mel_to_waveform(MEL, log_mel, len(sound))),
        MEL.griffin_lim(log_mel, len(sound)),
    )
    in_blocks, at_once = ((MEL.log_mel(waveform) - log_mel).abs().mean(1) for waveform in waveforms)
    assert in_blocks.mean() < 1.05 * at_once.mean() + 0.05
    seams = [block * generate.PHASE_BLOCK // 256 for block in (1, 2, 3)]
    assert max(in_blocks[seam - 3 : seam + 4].mean() for seam in seams) < 2 * in_blocks.mean()


def test_a_variation_moves_away_from_its_source_with_its_strength(small_flow, tone):
    """Strength 0 gives the waveform of the source's own spectrogram, above the floor of -80 dB."""
    own = MEL.log_mel(tone).clamp(min=-80)

    def distance(waveform: np.ndarray) -> float:
        assert len(waveform) == len(tone)
        return (MEL.log_mel(torch.from_numpy(waveform)).clamp(min=-80) - own).square().mean().sqrt().item()

    none, half, full = (distance(generate.vary(small_flow, tone, "other", strength)) for strength in (0.0, 0.5, 1.0))
    assert none == pytest.approx(distance(generate.mel_to_waveform(MEL, own, len(tone))), rel=0.1)
    assert none < half < full


def test_a_full_variation_keeps_only_the_style_of_its_source(small_flow, tone, monkeypatch):
    sources = tone, tone.flip(0) * 0.3
    one, other = (generate.vary(small_flow, sound, "other", 1.0) for sound in sources)
    assert not np.allclose(one, other, atol=1e-3)
    monkeypatch.setattr(flow.StemFlow, "style", lambda self, latent: latent.new_ones(1, 6))
    one, other = (generate.vary(small_flow, sound, "other", 1.0) for sound in sources)
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_continuation_begins_with_the_recording_itself(small_flow, tone):
    long = generate.extend(small_flow, tone, "bass", 1.5, seed=2)
    assert len(long) == len(tone) + int(1.5 * RATE)
    assert np.array_equal(long[: len(tone)], tone.numpy())
    assert np.abs(long).max() <= 1
    other = generate.extend(small_flow, tone, "bass", 1.5, seed=3)
    assert not np.allclose(other[len(tone) :], long[len(tone) :])
    changed = tone.clone()
    changed[-RATE:] *= 0.1
    assert not np.allclose(generate.extend(small_flow, changed, "bass", 1.5, seed=2)[len(tone) :], long[len(tone) :])
    # Of a long recording, only the end counts.
    earlier = torch.cat([torch.zeros(5 * RATE), tone.repeat(2)])
    assert np.array_equal(
        generate.extend(small_flow, earlier, "bass", 1.5)[-RATE:],
        generate.extend(small_flow, tone.repeat(2), "bass", 1.5)[-RATE:],
    )


def test_the_change_at_a_joint_is_that_of_level_and_spectrum(small_flow):
    log_mels = torch.full((3, 60, 40), -40.0)
    log_mels[1, 30:] += 6  # level and every band: 6 dB
    log_mels[2, 30:] += 30
    log_mels[2, :30] += 30  # the same on both sides
    changes = generate._joint_changes(small_flow, log_mels, 30)
    torch.testing.assert_close(changes, torch.tensor([0.0, 72.0, 0.0]), atol=1e-3, rtol=0)
    log_mels[0, 30 + 4 * generate.JOINT :] = 0  # too late to count
    torch.testing.assert_close(generate._joint_changes(small_flow, log_mels, 30), changes, atol=1e-3, rtol=0)


def test_the_beginning_that_fits_best_is_continued(small_flow, tone, monkeypatch):
    draw_noise = generate.draw_noise
    for row in (0, 5):
        best = torch.arange(generate.BEGINNINGS) != row
        with monkeypatch.context() as patch:
            patch.setattr(generate, "_joint_changes", lambda *_, best=best: best.float())
            chosen = generate.extend(small_flow, tone, "bass", 4.0, seed=2)
        with monkeypatch.context() as patch:
            patch.setattr(generate, "BEGINNINGS", 1)
            patch.setattr(generate, "draw_noise", lambda *arguments, row=row: draw_noise(*arguments[:4], row))
            np.testing.assert_allclose(generate.extend(small_flow, tone, "bass", 4.0, seed=2), chosen, atol=1e-4)


@pytest.mark.parametrize("seconds", [1 / RATE, 0.02])
def test_a_continuation_may_be_shorter_than_a_latent_frame(small_flow, tone, seconds):
    long = generate.extend(small_flow, tone, "bass", seconds)
    assert len(long) == len(tone) + int(seconds * RATE)
    assert np.isfinite(long).all()


def test_interpolation_ends_at_the_posteriors_of_its_ends(model, sound):
    first, second = torch.from_numpy(sound[:30_000]), torch.from_numpy(sound[50_000:90_000])
    path = generate.interpolate(model, first, second, ("bass", "vocals"), steps=3)
    assert path.shape == (3, 30_000 // 256 + 1, 40)
    same = generate.interpolate(model, first, first, ("bass", "bass"), steps=2)
    torch.testing.assert_close(same[0], path[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(same[0], same[1], atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="at least its 2 ends"):
        generate.interpolate(model, first, second, ("bass", "vocals"), steps=1)
    with pytest.raises(ValueError, match=r"the recording lasts 0\.00 s"):
        generate.interpolate(model, first, second[:1], ("bass", "vocals"))
    with pytest.raises(ValueError, match="the recording has a peak of"):
        generate.interpolate(model, first, 1000 * second, ("bass", "vocals"))
