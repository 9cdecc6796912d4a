"""Sound files: reading any format, writing each format, resampling."""

import numpy as np
import pytest
import soundfile

from src.audio import sound_files
from src.errors import DataError

RATE = 22050


@pytest.mark.parametrize(("suffix", "exact"), [("wav", 1e-4), ("flac", 1e-4), ("mp3", 0.1), ("ogg", 0.1)])
@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (16000, 1)])
def test_any_file_is_read(tmp_path, suffix, exact, rate, channels):
    time = np.arange(rate) / rate
    wave = np.stack([0.4 * np.sin(2 * np.pi * (300 + 200 * channel) * time) for channel in range(channels)])
    soundfile.write(tmp_path / f"tone.{suffix}", wave.T, rate)
    decoded, decoded_rate = sound_files.read_audio(tmp_path / f"tone.{suffix}")
    assert decoded_rate == rate and decoded.shape[0] == channels and decoded.dtype == np.float32
    assert decoded.shape[1] > 0.98 * rate
    heard, played = (np.abs(np.fft.rfft(x[:, rate // 4 : rate // 2])) for x in (decoded, wave))
    assert np.abs(heard - played).max() < exact * rate / 8


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"missing\.wav cannot be decoded"):
        sound_files.read_audio(tmp_path / "missing.wav")
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(DataError, match=r"text\.wav cannot be decoded"):
        sound_files.read_audio(tmp_path / "text.wav")
    soundfile.write(tmp_path / "mono.wav", np.zeros(100), RATE)
    with pytest.raises(DataError, match="has 1 audio streams, and so none of number 4"):
        sound_files.read_audio(tmp_path / "mono.wav", stream=4)


def test_resampling_keeps_what_both_rates_can_hold():
    time = np.arange(44100) / 44100
    low, high = (np.sin(2 * np.pi * frequency * time).astype(np.float32) for frequency in (1000, 15000))
    resampled = sound_files.resample(low + high, 44100, RATE)
    expected = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    assert len(resampled) == RATE
    assert np.abs(resampled - expected)[500:-500].max() < 1e-3
    assert sound_files.resample(low, RATE, RATE) is low


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_written_sound_is_read_back(tmp_path, suffix):
    stereo = (
        np.stack([np.sin(np.arange(8820) / 44_100 * 2 * np.pi * hertz) for hertz in (440, 880)]).astype(np.float32) / 2
    )
    sound_files.write_audio(tmp_path / f"sound{suffix}", stereo, 44_100)
    read, rate = sound_files.read_audio(tmp_path / f"sound{suffix}")
    assert rate == 44_100 and len(read) == 2
    lossless = suffix in (".wav", ".flac")
    assert np.abs(read[:, :8000] - stereo[:, :8000]).mean() < (1e-4 if lossless else 0.02)
    assert [path.name for path in tmp_path.iterdir()] == [f"sound{suffix}"]


def test_peaks_beyond_full_scale_are_clipped_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match=r"peaks of 6\.0 dB are clipped"):
        sound_files.write_audio(tmp_path / "loud.wav", np.full((1, 100), 2.0, np.float32), 22050)


@pytest.mark.parametrize(
    ("file_format", "channels", "rate"),
    [("MP3", 1, 96_000), ("MP3", 6, 44_100), ("OGG", 1, 384_000), ("OGG", 256, 44_100), ("FLAC", 9, 44_100)],
)
def test_a_format_that_cannot_hold_the_sound_is_refused_and_nothing_is_written(tmp_path, file_format, channels, rate):
    with pytest.raises(DataError, match=f"{file_format} cannot hold {channels} channels at {rate} Hz: write WAV"):
        sound_files.write_audio(tmp_path / f"a.{file_format.lower()}", np.zeros((channels, 100), np.float32), rate)
    assert not list(tmp_path.iterdir())
    sound_files.check_format(tmp_path / "a.wav", channels, rate)


@pytest.mark.parametrize("suffix", [".flac", ".ogg"])
def test_a_song_is_written_whole(tmp_path, suffix):
    """More frames than the stack could take in one piece."""
    sound_files.write_audio(tmp_path / f"song{suffix}", np.zeros((2, 3_000_000), np.float32), 44_100)
    assert soundfile.info(tmp_path / f"song{suffix}").frames == 3_000_000


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path, monkeypatch):
    def fail(file, frames):
        raise soundfile.LibsndfileError(2)

    monkeypatch.setattr(soundfile.SoundFile, "write", fail)
    monkeypatch.setattr(sound_files, "check_format", lambda *_: None)
    with pytest.raises(DataError, match=r"full\.wav cannot be written \(System error"):
        sound_files.write_audio(tmp_path / "full.wav", np.zeros((1, 1000), np.float32), 44_100)
    assert not list(tmp_path.iterdir())


def test_padding_and_trimming_keep_the_beginning():
    waveform = np.arange(1.0, 5.0, dtype=np.float32)
    assert sound_files.pad_or_trim(waveform, 3).tolist() == [1, 2, 3]
    assert sound_files.pad_or_trim(waveform, 6).tolist() == [1, 2, 3, 4, 0, 0]
