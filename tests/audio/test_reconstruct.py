"""Reconstruction: seams, determinism, shapes, and one clear error for each invalid input."""

import numpy as np
import pytest
import soundfile
import torch

from src.audio import data, metrics, reconstruct, vae
from src.audio.sound_files import read_audio, write_audio
from src.audio.water_filling import water_level
from src.config import OPERATING_SDR_DB, STEMS, AudioConfig
from src.errors import UsageError

RATE = 22050
SMALL = AudioConfig(mel_bands=40, latent_dim=4, mel_channels=4, mel_hidden=16, fine_channels=6)


def log_mel_of(model, channels: torch.Tensor) -> torch.Tensor:
    return torch.cat(list(reconstruct.log_mel_blocks(model, channels)), dim=1)


@pytest.mark.parametrize("stem", range(4))
def test_blocks_leave_no_seams(model, sound, stem):
    channels = torch.from_numpy(sound)[None]
    log_mel = log_mel_of(model, channels)
    level = water_level(log_mel, torch.tensor([15.0]), model.spectrogram)
    results = []
    for size in (2**19, 2**16, 3 * 2**13):
        with torch.no_grad():
            blocks = list(reconstruct.reconstruct_blocks(model, channels, log_mel, stem, level, fill=0.5, block=size))
        assert sum(block.waveform.shape[1] for block in blocks) == channels.shape[1]
        nats = (sum(block.mel_nats for block in blocks), sum(block.fine_nats for block in blocks))
        results.append((torch.cat([block.waveform for block in blocks], dim=1), *nats))
    for waveform, mel_nats, fine_nats in results[1:]:
        torch.testing.assert_close(waveform, results[0][0], atol=1e-4, rtol=0)
        assert mel_nats == pytest.approx(results[0][1], rel=1e-4)
        assert fine_nats == pytest.approx(results[0][2], rel=1e-4)
    assert results[0][0].std() > 0.01 and results[0][2] > 1000


def test_the_spectrogram_of_a_long_recording_is_that_of_the_whole(model, sound, monkeypatch):
    channels = torch.from_numpy(sound)[None]
    whole = log_mel_of(model, channels)
    assert torch.equal(whole, model.log_mel(channels))
    monkeypatch.setattr(reconstruct, "BLOCK", 2**15)
    torch.testing.assert_close(log_mel_of(model, channels), whole)


@pytest.mark.filterwarnings("ignore:.*are clipped")
@pytest.mark.parametrize(("channels", "rate"), [(1, RATE), (2, 44_100), (9, 16_000)])
def test_a_file_gives_what_its_samples_give_block_by_block(model, sound, tmp_path, monkeypatch, channels, rate):
    delays = range(0, 1000 * channels, 1000)
    stereo = np.stack([sound[delay : delay + 70_000] for delay in delays])
    stereo[0] *= channels == 1  # the first of several channels is silent
    write_audio(tmp_path / "in.wav", stereo, rate)
    samples, _ = read_audio(tmp_path / "in.wav")
    options = {"sdr_db": 12.0, "fill": 0.5, "seed": 3}
    expected = reconstruct.reconstruct(model, samples, rate, **options)

    written = []
    write_blocks = reconstruct.write_blocks
    monkeypatch.setattr(
        reconstruct,
        "write_blocks",
        lambda path, blocks, *facts: write_blocks(path, (written.append(b) or b for b in blocks), *facts),
    )
    monkeypatch.setattr(reconstruct, "BLOCK", 2**14)  # of the spectrogram
    monkeypatch.setattr(reconstruct, "FILE_PART", 2**13)
    found = reconstruct.reconstruct_file(model, tmp_path / "in.wav", tmp_path / "out.wav", **options)
    assert len(written) > 1
    np.testing.assert_allclose(np.concatenate(written, axis=1), expected.waveform, atol=1e-5)
    assert (found.stem, found.channels, found.seconds) == (expected.stem, channels, 70_000 / rate)
    assert (found.rate, found.mel_rate) == pytest.approx((expected.rate, expected.mel_rate), rel=1e-4)
    np.testing.assert_allclose(read_audio(tmp_path / "out.wav")[0], expected.waveform.clip(-1, 1), atol=1.5 / 2**15)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.wav", "out.wav"]  # no temporary file


def test_a_file_that_cannot_be_coded_leaves_nothing_behind(model, sound, tmp_path):
    soundfile.write(tmp_path / "loud.wav", sound * 32_768, RATE, "FLOAT")
    with pytest.raises(UsageError, match="divide samples"):
        reconstruct.reconstruct_file(model, tmp_path / "loud.wav", tmp_path / "out.wav")
    assert [path.name for path in tmp_path.iterdir()] == ["loud.wav"]


def test_the_log_mel_of_a_recording_is_computed_once(model, sound, monkeypatch):
    calls = []
    log_mel = vae.StemVAE.log_mel
    monkeypatch.setattr(vae.StemVAE, "log_mel", lambda self, waveform: calls.append(1) or log_mel(self, waveform))
    reconstruct.reconstruct(model, sound, RATE, "bass")
    assert len(calls) == 1


@pytest.mark.parametrize(("shape", "rate"), [((1,), 22050), ((700,), 8000), ((2, 30_000), 44_100), ((30_000,), 48_000)])
def test_any_shape_and_sample_rate_comes_back_as_it_was(model, shape, rate):
    waveform = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 0.1
    result = reconstruct.reconstruct(model, waveform, rate, "other")
    assert result.waveform.shape == shape and result.waveform.dtype == np.float32
    assert np.isfinite(result.waveform).all()
    assert result.rate > result.mel_rate > 0


def test_untrained_heads_on_the_true_mel_reach_the_ratio_asked_for(sound, monkeypatch):
    model = vae.StemVAE(AudioConfig()).eval()
    original = torch.from_numpy(sound)[:100_000]
    monkeypatch.setattr(model.mel, "decode", lambda latent, stems, frames: model.log_mel(original[None]))
    for wanted, tolerance in ((10, 2.0), (20, 2.0)):
        result = reconstruct.reconstruct(model, original.numpy(), RATE, "vocals", sdr_db=wanted)
        reached = metrics.sdr_global(original, torch.from_numpy(result.waveform)).item()
        assert reached == pytest.approx(wanted, abs=tolerance)


def test_the_same_seed_gives_the_same_sound_and_another_one_does_not(model, sound):
    first, again = (reconstruct.reconstruct(model, sound[:20_000], RATE, "bass", seed=4) for _ in range(2))
    assert np.array_equal(first.waveform, again.waveform) and first.rate == again.rate
    assert not np.array_equal(
        first.waveform, reconstruct.reconstruct(model, sound[:20_000], RATE, "bass", seed=5).waveform
    )


def test_fill_adds_the_power_that_the_estimate_lacks(monkeypatch):
    """All of it, or of half the amplitude a quarter."""
    model = vae.StemVAE(AudioConfig()).eval()
    noise = 0.1 * torch.randn(1, 100_000, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(model.mel, "decode", lambda latent, stems, frames: model.log_mel(noise))
    power = {
        fill: reconstruct.reconstruct(model, noise[0].numpy(), RATE, "other", 6.0, fill).waveform.var()
        for fill in (0.0, 0.5, 1.0)
    }
    missing = 0.01 - power[0.0]
    assert missing > 0.001
    assert power[1.0] - power[0.0] == pytest.approx(missing, rel=0.1)
    assert power[0.5] - power[0.0] == pytest.approx(missing / 4, rel=0.1)


def test_an_unnamed_stem_is_the_one_of_least_cost(model, sound):
    excerpt = sound[:60_000]
    guessed = reconstruct.reconstruct(model, excerpt, RATE).stem
    channels = torch.from_numpy(excerpt)[None]
    log_mel = model.log_mel(channels)
    level = water_level(log_mel, torch.tensor([reconstruct.GUESS_SDR_DB]), model.spectrogram)
    costs = []
    for stem in range(4):
        torch.manual_seed(5)
        with torch.no_grad():
            output = model(channels, log_mel, stem, level)
        costs.append((output.mel_divergence.sum() + output.fine_divergence.sum() + output.distortion.sum() / 2).item())
    assert STEMS.index(guessed) == min(range(4), key=costs.__getitem__)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"waveform": np.zeros((0,), np.float32)}, "holds no|not \\(samples"),
        ({"waveform": np.zeros((0, 100), np.float32)}, "not \\(samples"),
        ({"waveform": np.zeros((1, 2, 3), np.float32)}, "is not"),
        ({"waveform": np.zeros(100, np.uint8)}, "of type uint8: use floats"),
        ({"waveform": np.zeros(100, np.complex64)}, "of type complex64: use floats"),
        ({"sample_rate": 0}, "sample_rate is 0: it must lie between 1000 and 1000000 Hz"),
        ({"sample_rate": np.nan}, "sample_rate is nan"),
        ({"waveform": np.full(100, np.nan, np.float32)}, "not finite"),
        ({"stem": "flute"}, "use one of drums, bass, other, vocals"),
        ({"fill": 1.5}, "between 0 and 1"),
        ({"sdr_db": -3.0}, "between 0 and 60"),
        ({"sdr_db": np.nan}, "between 0 and 60"),
    ],
)
def test_bad_input_is_refused_in_one_clear_line(model, change, message):
    arguments = {"waveform": np.zeros(1000, np.float32), "sample_rate": RATE, "stem": "drums", **change}
    with pytest.raises(ValueError, match=message):
        reconstruct.reconstruct(model, **arguments)


def test_integers_are_scaled_by_their_type(model, sound):
    floats = np.round(sound[:20_000] * 32_768) / 32_768
    expected = reconstruct.reconstruct(model, floats.astype(np.float32), RATE, "bass")
    for kind, scale in ((np.int16, 2**15), (np.int32, 2**31)):
        result = reconstruct.reconstruct(model, (floats * scale).astype(kind), RATE, "bass")
        np.testing.assert_allclose(result.waveform, expected.waveform, atol=1e-6)


def test_floats_in_the_range_of_integers_are_refused_and_loud_ones_are_coded(model, sound):
    with pytest.raises(ValueError, match=r"peak of .*: divide samples in the range of 16-bit integers by 32768"):
        reconstruct.reconstruct(model, sound * 32_768, RATE, "bass")
    loud = 20 * sound[:20_000] / np.abs(sound).max()
    assert np.isfinite(reconstruct.reconstruct(model, loud, RATE, "bass").waveform).all()


def test_a_channel_of_zeros_gives_zeros(model, sound):
    stereo = np.stack([sound[:30_000], np.zeros(30_000, np.float32)])
    result = reconstruct.reconstruct(model, stereo, RATE, "bass", fill=0.5)
    assert result.waveform[0].any() and not result.waveform[1].any()


def test_silence_stays_below_80_db():
    result = reconstruct.reconstruct(vae.StemVAE(SMALL).eval(), np.zeros(50_000, np.float32), RATE, "drums")
    assert np.abs(result.waveform).max() < 1e-3 and result.waveform.std() < 10 ** (-80 / 20)


@pytest.fixture(scope="module")
def packaged() -> np.ndarray:
    """Four seconds of the four stems of the track that is always at hand."""
    return data.decode_stems(data.packaged_track(), RATE)[:, RATE : 5 * RATE]


@pytest.mark.parametrize("stem", STEMS)
def test_committed_model_reaches_its_operating_point_and_knows_the_stem(packaged, stem):
    number = STEMS.index(stem)
    model, waveform = vae.load_model(), packaged[number]
    result = reconstruct.reconstruct(model, waveform, RATE, stem)
    reached = metrics.sdr_global(torch.from_numpy(waveform), torch.from_numpy(result.waveform)).item()
    assert reached == pytest.approx(OPERATING_SDR_DB[number], abs=1.5)
    assert 0.1 < result.mel_rate < 3
    others = [reconstruct.reconstruct(model, waveform, RATE, other, OPERATING_SDR_DB[number]).rate for other in STEMS]
    assert sorted(others).index(others[number]) <= (1 if stem == "other" else 0)
