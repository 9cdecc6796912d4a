"""Sound files: reading any format, writing each format, resampling."""

import os
import threading
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from src.audio import sound_files
from src.errors import DataError, OutputError, UsageError

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
    for stream in (4, -1):
        with pytest.raises(DataError, match=f"has 1 audio streams, and so none of number {stream}"):
            sound_files.read_audio(tmp_path / "mono.wav", stream)


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
    with pytest.raises(OutputError, match=r"full\.wav cannot be written \(System error"):
        sound_files.write_audio(tmp_path / "full.wav", np.zeros((1, 1000), np.float32), 44_100)
    assert not list(tmp_path.iterdir())


def test_padding_and_trimming_keep_the_beginning():
    waveform = np.arange(1.0, 5.0, dtype=np.float32)
    assert sound_files.pad_or_trim(waveform, 3).tolist() == [1, 2, 3]
    assert sound_files.pad_or_trim(waveform, 6).tolist() == [1, 2, 3, 4, 0, 0]


# --- unusual and damaged files ---


def tones(channels: int, seconds: float = 1.0, rate: int = 44_100) -> np.ndarray:
    """One tone for each channel, with a little noise: float32 (channels, samples)."""
    times = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal((channels, len(times)))
    hertz = 200 + 90 * np.arange(channels)[:, None]
    return (0.1 * np.sin(2 * np.pi * hertz * times) + 0.001 * noise).astype(np.float32)


@pytest.mark.parametrize(("suffix", "channels"), [("wav", 8), ("wav", 9), ("wav", 16), ("wav", 32), ("flac", 8)])
def test_many_channels_are_those_of_libsndfile(tmp_path, suffix, channels):
    path = tmp_path / f"many.{suffix}"
    sound_files.write_audio(path, tones(channels, 0.5), 44_100)
    expected, rate = soundfile.read(path, dtype="float32")
    decoded, decoded_rate = sound_files.read_audio(path)
    assert decoded_rate == rate and np.array_equal(decoded, expected.T)


@pytest.mark.parametrize("channels", range(1, 9))
def test_channels_keep_their_order_in_ogg(tmp_path, channels):
    waveform = tones(channels)
    if channels >= 6:
        waveform[3] = tones(1)[0] * 0  # the fourth channel is for low frequencies alone, and Vorbis filters it
    sound_files.write_audio(tmp_path / "sound.ogg", waveform, 44_100)
    decoded, _ = sound_files.read_audio(tmp_path / "sound.ogg")
    assert len(decoded) == channels
    for read, written in zip(decoded, waveform, strict=True):
        assert np.abs(read[2000:40_000] - written[2000:40_000]).mean() < 0.01


@pytest.mark.skipif(os.name == "nt", reason="Windows forbids a colon in names")
def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sound_files.write_audio(tmp_path / "plain.wav", tones(1), 44_100)
    for name in ("Take:1.wav", "12:30.wav", "http:x.wav"):
        (tmp_path / name).write_bytes((tmp_path / "plain.wav").read_bytes())
        assert sound_files.read_audio(Path(name))[0].shape == (1, 44_100)


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:3,\nplain.wav\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile plain.wav\n",
    ],
)
@pytest.mark.parametrize("suffix", ["m3u8", "ffconcat", "wav"])
def test_a_list_of_files_is_not_opened(tmp_path, text, suffix):
    sound_files.write_audio(tmp_path / "plain.wav", tones(1), 44_100)
    (tmp_path / f"list.{suffix}").write_text(text)
    with pytest.raises(DataError, match=rf"list\.{suffix} (is no sound file|cannot be decoded)"):
        sound_files.read_audio(tmp_path / f"list.{suffix}")


@pytest.mark.parametrize(
    "junk", [bytes(4096), b"<html><body>error 500</body></html>" * 20, b"LYRICSBEGIN" + b"x" * 900]
)
def test_an_mp3_with_junk_at_its_end_is_decoded_and_the_junk_is_reported(tmp_path, junk):
    sound_files.write_audio(tmp_path / "plain.mp3", tones(2, 2.0), 44_100)
    expected, _ = sound_files.read_audio(tmp_path / "plain.mp3")
    (tmp_path / "junk.mp3").write_bytes((tmp_path / "plain.mp3").read_bytes() + junk)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decoded, _ = sound_files.read_audio(tmp_path / "junk.mp3")
    assert all("junk.mp3: 1 damaged packets were skipped" in str(warning.message) for warning in caught)
    assert abs(decoded.shape[1] - expected.shape[1]) < 2500  # the decoder may flush its last frame
    assert np.abs(decoded[:, 2000:80_000] - expected[:, 2000:80_000]).max() < 1e-6


def test_joined_mp3_files_are_decoded_whole_at_the_rate_of_the_first(tmp_path):
    sound_files.write_audio(tmp_path / "a.mp3", tones(2, 1.0), 44_100)
    sound_files.write_audio(tmp_path / "b.mp3", tones(1, 1.0, 32_000), 32_000)
    (tmp_path / "ab.mp3").write_bytes((tmp_path / "a.mp3").read_bytes() + (tmp_path / "b.mp3").read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decoded, rate = sound_files.read_audio(tmp_path / "ab.mp3")
    assert rate == 44_100 and len(decoded) == 2
    assert decoded.shape[1] / rate == pytest.approx(2.0, abs=0.15)


def test_damage_in_the_middle_of_flac_keeps_the_position_of_the_rest(tmp_path):
    waveform = tones(2, 3.0)
    sound_files.write_audio(tmp_path / "plain.flac", waveform, 44_100)
    content = (tmp_path / "plain.flac").read_bytes()
    half = len(content) // 2
    (tmp_path / "damaged.flac").write_bytes(content[:half] + bytes(64) + content[half + 64 :])
    with pytest.warns(UserWarning, match=r"damaged\.flac: .*0\.1\d s of missing sound are silent|0\.09 s"):
        decoded, _ = sound_files.read_audio(tmp_path / "damaged.flac")
    assert decoded.shape == waveform.shape
    different = np.abs(decoded - waveform).max(axis=0) > 1e-3
    assert different.sum() < 5000 and not different[-44_100:].any() and not different[:44_100].any()


def test_a_lost_page_of_ogg_is_reported(tmp_path):
    sound_files.write_audio(tmp_path / "plain.ogg", tones(2, 8.0), 44_100)
    content = (tmp_path / "plain.ogg").read_bytes()
    half = len(content) // 2
    (tmp_path / "damaged.ogg").write_bytes(content[:half] + bytes(300) + content[half + 300 :])
    with pytest.warns(UserWarning, match=r"damaged\.ogg: .*(incomplete|missing sound)"):
        sound_files.read_audio(tmp_path / "damaged.ogg")


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_truncated_file_is_reported(tmp_path, suffix):
    sound_files.write_audio(tmp_path / f"whole.{suffix}", tones(1, 3.0), 44_100)
    content = (tmp_path / f"whole.{suffix}").read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match=rf"cut\.{suffix}: .*the file is incomplete"):
        decoded, _ = sound_files.read_audio(tmp_path / f"cut.{suffix}")
    assert 1.2 < decoded.shape[1] / 44_100 < 1.7


@pytest.mark.parametrize("rate", [1, 2_000_000_000])
def test_a_sample_rate_that_makes_no_sense_is_refused(tmp_path, rate):
    sound_files.write_audio(tmp_path / "plain.wav", tones(1), 44_100)
    content = bytearray((tmp_path / "plain.wav").read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    (tmp_path / "odd.wav").write_bytes(content)
    with pytest.raises(DataError, match=r"odd\.wav"):
        sound_files.read_audio(tmp_path / "odd.wav")


def test_a_header_that_names_an_unknown_codec_is_refused(tmp_path):
    sound_files.write_audio(tmp_path / "plain.wav", tones(1), 44_100)
    content = bytearray((tmp_path / "plain.wav").read_bytes())
    content[20:22] = b"\x77\x77"  # the format tag
    (tmp_path / "odd.wav").write_bytes(content)
    with pytest.raises(DataError, match=r"odd\.wav cannot be decoded \(its codec is unknown\)"):
        sound_files.read_audio(tmp_path / "odd.wav")


def test_a_wrong_sample_rate_in_the_header_of_flac_puts_no_silence_between_its_frames(tmp_path):
    sound_files.write_audio(tmp_path / "plain.flac", tones(1), 44_100)
    expected, _ = sound_files.read_audio(tmp_path / "plain.flac")
    content = bytearray((tmp_path / "plain.flac").read_bytes())
    assert int.from_bytes(content[18:21], "big") >> 4 == 44_100
    content[18] ^= 0x08  # 44,100 Hz becomes 11,332 Hz; the frames still say 44,100 Hz
    (tmp_path / "odd.flac").write_bytes(content)
    decoded, rate = sound_files.read_audio(tmp_path / "odd.flac")
    assert rate == 44_100 and np.array_equal(decoded, expected)


def test_silence_for_missing_sound_is_bounded_by_the_size_of_the_file(tmp_path):
    path = tmp_path / "slow.m4a"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44_100, layout="mono")
        frame = av.AudioFrame.from_ndarray(tones(1), "fltp", "mono")
        frame.sample_rate = 44_100
        for part in (frame, None):
            container.mux(stream.encode(part))
    content = bytearray(path.read_bytes())
    time_scale = content.index(b"mdhd") + 16
    assert int.from_bytes(content[time_scale : time_scale + 4], "big") == 44_100
    content[time_scale : time_scale + 4] = (100).to_bytes(4, "big")  # a second becomes 441
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"slow\.m4a: .*the file is incomplete"):
        decoded, rate = sound_files.read_audio(path)
    assert decoded.shape[1] / rate < len(content) / sound_files.MIN_BYTE_RATE + 1.1 < 400


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_not_written(tmp_path, value):
    with pytest.raises(DataError, match="not finite"):
        sound_files.write_audio(tmp_path / "sound.wav", np.full((1, 10), value, np.float32), 44_100)
    assert not list(tmp_path.iterdir())


def test_mono_is_the_mean_unless_the_channels_cancel():
    left, right = tones(2)
    stereo = np.stack([left, right])
    assert np.array_equal(sound_files.mix_to_mono(stereo), stereo.mean(axis=0))
    inverted = np.stack([left, -1.02 * left])
    assert np.array_equal(sound_files.mix_to_mono(inverted), inverted[1])
    assert not sound_files.mix_to_mono(np.zeros((2, 5), np.float32)).any()


@pytest.mark.parametrize(("rate", "target"), [(44_100, 22_050), (22_050, 44_100), (48_000, 22_050), (RATE, RATE)])
@pytest.mark.parametrize("samples", [1, 100, 30_000])
def test_resampling_in_blocks_gives_the_bits_of_the_whole(rate, target, samples):
    sound = np.random.default_rng(0).standard_normal((2, samples)).astype(np.float32)
    blocks = [sound[:, begin : begin + 777] for begin in range(0, samples, 777)]
    found = np.concatenate(list(sound_files.resample_blocks(blocks, rate, target)), axis=1)
    expected = np.stack([sound_files.resample(channel, rate, target) for channel in sound])
    np.testing.assert_array_equal(found, expected)


def test_blocks_are_trimmed_or_padded_at_their_end():
    blocks = [np.ones((2, 3), np.float32), np.ones((2, 4), np.float32)]
    for samples in (2, 3, 7, 9):
        found = np.concatenate(list(sound_files.trim_blocks(blocks, samples)), axis=1)
        np.testing.assert_array_equal(found, np.tile((np.arange(samples) < 7).astype(np.float32), (2, 1)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_which_cannot_be_read_twice_is_read(tmp_path):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 70_000)).astype(np.float32)
    sound_files.write_audio(tmp_path / "sound.wav", sound, RATE)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes((tmp_path / "sound.wav").read_bytes()))
    writer.start()
    found, rate = sound_files.read_audio(tmp_path / "pipe")
    writer.join()
    np.testing.assert_array_equal(found, sound_files.read_audio(tmp_path / "sound.wav")[0])
    assert rate == RATE


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_a_device_is_refused():
    with pytest.raises(DataError, match="device"):
        sound_files.read_audio(Path("/dev/zero"))


def test_a_tag_in_latin_1_does_not_matter(tmp_path):
    sound_files.write_audio(tmp_path / "plain.wav", np.full((1, 500), 0.25, np.float32), RATE)
    content = (tmp_path / "plain.wav").read_bytes()
    tag = b"LIST" + (18).to_bytes(4, "little") + b"INFOINAM" + (6).to_bytes(4, "little") + b"caf\xe9\0\0"
    riff = content[:4] + (len(content) - 8 + len(tag)).to_bytes(4, "little") + content[8:]
    (tmp_path / "tagged.wav").write_bytes(riff + tag)
    np.testing.assert_array_equal(
        sound_files.read_audio(tmp_path / "tagged.wav")[0], sound_files.read_audio(tmp_path / "plain.wav")[0]
    )


def test_an_unknown_suffix_is_one_clear_line(tmp_path):
    with pytest.raises(UsageError, match=r"end its name in \.wav"):
        sound_files.write_audio(tmp_path / "sound.xyz", np.zeros((1, 10), np.float32), RATE)
