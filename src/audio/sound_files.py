"""Sound files: read any format, write WAV, FLAC, OGG or MP3, resample."""

import errno
import io
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import soundfile
import soxr

from src import files, paths
from src.config import MAX_RATE, MIN_RATE
from src.errors import DataError, OutputError, UsageError

# Formats that open other files, devices or addresses, and so are no sound files.
REFERENCES = {
    "alsa", "concat", "dash", "fbdev", "ffmetadata", "hls", "image2", "image2pipe", "imf", "lavfi", "oss", "rtp",
    "rtsp", "sdp", "tty", "video4linux2,v4l2", "webm_dash_manifest", "x11grab",
}  # fmt: skip
# Titles and comments may be in any encoding. From version 19 on, PyAV reads them leniently by itself.
LENIENT = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
SOUND_FORMATS = ",".join(sorted(av.formats_available - REFERENCES))
EXACT_DURATION = {  # formats whose duration is recorded in the file; for others FFmpeg estimates it
    "wav", "w64", "aiff", "caf", "au", "flac", "ogg", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2",
}  # fmt: skip
MAX_PEAK = 30.0  # of sound with full scale 1; a larger one has another scale
MAX_GAP = 0.01  # seconds by which positions in a container may be rounded
MIN_BYTE_RATE = 50  # bytes per second below which no format codes sound, not even silence
MAX_SHORTFALL = 0.1  # seconds by which a header may overstate the duration
CANCELLATION = 0.01  # power of the mixture over the channels' mean power, below which they cancel: -20 dB
VORBIS_ORDER = {  # of FFmpeg's channels, for each number of them (Vorbis I specification, 4.3.9)
    3: (0, 2, 1),
    5: (0, 2, 1, 3, 4),
    6: (0, 2, 1, 4, 5, 3),
    7: (0, 2, 1, 5, 6, 4, 3),
    8: (0, 2, 1, 6, 7, 4, 5, 3),
}
WRITABLE = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}
READ_BLOCK = 2**16  # samples a channel
WRITE_BLOCK = 2**16  # samples a channel: libsndfile's OGG encoder puts a block on the stack, which can overflow
OGG_MAX_RATE, OGG_MAX_CHANNELS = 200_000, 255  # in Hz; beyond these that encoder crashes instead of refusing


def read_audio(path: Path, stream: int = 0) -> tuple[np.ndarray, int]:
    """Decode a sound file of any format that FFmpeg's libraries support (WAV, FLAC, MP3, Ogg, MP4 ...).

    Returns float32 (channels, samples) with full scale 1, and the sample rate in Hz. `stream` is the number of the
    audio stream, for files with several, such as a .stem.mp4.

    Damaged packets are skipped, with a warning. If the container gives the position of the sound after the damage,
    silence keeps it there. Sound that changes its sample rate or its channels, as files that were joined do, is
    converted to those of its beginning.

    Raises:
        DataError: the file is missing, is no sound file, or has no such stream. Playlists are refused: they would open
            the files and addresses that they name.
    """
    blocks, rates = zip(*read_blocks(path, stream), strict=True)
    return np.concatenate(blocks, axis=1), rates[0]


def read_blocks(path: Path, stream: int = 0) -> Iterator[tuple[np.ndarray, int]]:
    """As `read_audio`, in consecutive blocks of some 2^16 samples, each with the sample rate, which is the same for
    all. At least one block comes; its samples, warnings and errors are those of `read_audio`."""
    name = paths.relative(path)
    try:
        with _seekable(path) as file:
            missing = _missing_bytes(file)
            # A file object, not a path: FFmpeg would take "Take:1.wav" for a protocol.
            with av.open(file, options={"format_whitelist": SOUND_FORMATS}, **LENIENT) as container:
                decoder = _Decoder(container, _audio_stream(container, stream, name))
                for block in _joined(decoder.decode(), READ_BLOCK):
                    if not MIN_RATE <= decoder.sample_rate <= MAX_RATE:
                        raise DataError(
                            f"{name} has a sample rate of {decoder.sample_rate} Hz: "
                            f"supported are {MIN_RATE} to {MAX_RATE}"
                        )
                    yield block, decoder.sample_rate
    except av.ArgumentError as error:
        raise DataError(f"{name} is no sound file: playlists and lists of files are not opened") from error
    except (OSError, av.FFmpegError) as error:
        raise DataError(f"{name} cannot be decoded ({error.strerror or error})") from error
    if not decoder.samples:
        raise DataError(f"{name} holds no sound")
    if report := decoder.report() or (missing and f"the file is incomplete: {missing:,} bytes are missing at its end"):
        warnings.warn(f"{name}: {report}", stacklevel=2)


def check_scale(sound: np.ndarray, name: str) -> None:
    """Raise UsageError, which calls the sound `name`, if it has values that are not finite, or another full scale
    than 1."""
    if not np.isfinite(sound).all():
        raise UsageError(f"{name} holds values that are not finite")
    if (peak := float(np.abs(sound).max(initial=0))) > MAX_PEAK:
        raise UsageError(
            f"{name} has a peak of {peak:.6g}, but full scale is 1: "
            "divide samples in the range of 16-bit integers by 32768"
        )


@contextmanager
def _seekable(path: Path) -> Iterator[BinaryIO]:
    """The open file; a pipe, which can be read only once, is copied to a temporary file. Raises OSError."""
    with open(path, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(mode):
            yield file
        elif stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            with tempfile.TemporaryFile() as copy:
                shutil.copyfileobj(file, copy)
                copy.seek(0)
                yield copy
        else:
            raise OSError(errno.EINVAL, "it is a device")


def _audio_stream(container: av.container.InputContainer, stream: int, name: str) -> av.AudioStream:
    count = len(container.streams.audio)
    if not count:
        raise DataError(f"{name} holds no sound: it has no audio stream")
    if not 0 <= stream < count:
        raise DataError(f"{name} has {count} audio streams, and so none of number {stream}")
    chosen = container.streams.audio[stream]
    if chosen.codec_context is None:  # FFmpeg has no decoder for what the header names
        raise DataError(f"{name} cannot be decoded (its codec is unknown)")
    return chosen


def _joined(parts: Iterable[np.ndarray], samples: int) -> Iterator[np.ndarray]:
    """Short parts (channels, samples') joined to blocks of at least `samples`; the last may be shorter."""
    waiting, count = [], 0
    for part in parts:
        waiting.append(part)
        count += part.shape[1]
        if count >= samples:
            yield np.concatenate(waiting, axis=1)
            waiting, count = [], 0
    if count:
        yield np.concatenate(waiting, axis=1)


class _Decoder:
    """Decodes one audio stream packet by packet, and counts the damage."""

    def __init__(self, container: av.container.InputContainer, source: av.AudioStream):
        self.packets = container.demux(source)
        self.sample_rate = source.rate  # Hz
        self.samples = 0  # decoded so far
        self.expected = 0  # samples, by the container's header; 0 if it holds an estimate
        if container.format.name in EXACT_DURATION:
            of_stream = source.duration and float(source.duration * source.time_base)
            self.expected = round((of_stream or (container.duration or 0) / av.time_base) * source.rate)
        if container.format.name == "flac" and source.time_base * source.rate != 1:
            self.expected = 0  # the header's sample rate is damaged: its positions would be read in a wrong unit
        self.plausible = container.size / MIN_BYTE_RATE * source.rate  # samples that the file can hold
        self.damaged = 0  # packets
        self.silence = 0  # samples inserted for missing sound
        self.first: av.AudioFrame | None = None
        self.converters: dict[tuple, av.AudioResampler] = {}  # for each kind of frame

    def decode(self) -> Iterator[np.ndarray]:
        """The sound in parts, float32 (channels, samples) each. `sample_rate` is right from the first one on."""
        frames = self._frames()
        self.first = next(frames, None)
        if self.first is None:
            return
        # FFmpeg gives a frame the sample rate of the one before it, and the first one any rate in the file.
        second = next(frames, None)
        self.sample_rate = (second or self.first).sample_rate
        self.first.sample_rate = self.sample_rate
        for frame in chain((frame for frame in (self.first, second) if frame), frames):
            for part in self._converted(frame):
                self.samples += part.shape[1]
                yield part

    def _frames(self) -> Iterator[av.AudioFrame]:
        """The frames of all packets that can be decoded."""
        while True:
            try:
                packet = next(self.packets, None)
                frames = packet.decode() if packet is not None else []
            except av.FFmpegError:
                self.damaged += 1
                continue
            if packet is None:
                return
            yield from frames

    def _converted(self, frame: av.AudioFrame) -> Iterator[np.ndarray]:
        """The frame as parts of sound, after the silence that keeps its position."""
        if silence := self._missing_before(frame):
            self.silence += silence
            yield np.zeros((self.first.layout.nb_channels, silence), np.float32)
        # Joined files may change their sample rate or channels in the middle: convert to those of the first frame. The
        # samples are packed, because PyAV gives wrong planes for 8 and more channels.
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind not in self.converters:
            self.converters[kind] = av.AudioResampler("flt", self.first.layout, self.sample_rate)
        for part in self.converters[kind].resample(frame):
            yield part.to_ndarray().reshape(-1, self.first.layout.nb_channels).T

    def _missing_before(self, frame: av.AudioFrame) -> int:
        """Samples between the end of the sound decoded so far and the position that the container gives `frame`."""
        if frame.pts is None or self.first.pts is None or frame.time_base is None:
            return 0
        position = round(float((frame.pts - self.first.pts) * frame.time_base) * self.sample_rate)
        gap = position - self.samples
        credible = position < min(self.expected, self.plausible)
        return gap if gap > MAX_GAP * self.sample_rate and credible else 0

    def report(self) -> str:
        """The damage in words; empty if there is none."""
        faults = []
        if self.damaged:
            faults.append(f"{self.damaged} damaged packets were skipped")
        if self.silence:
            faults.append(f"{self.silence / self.sample_rate:.2f} s of missing sound are silent")
        if self.samples < self.expected - self.sample_rate * MAX_SHORTFALL:
            expected, found = self.expected / self.sample_rate, self.samples / self.sample_rate
            faults.append(f"the file is incomplete: its header says {expected:.2f} s, {found:.2f} s were found")
        return "; ".join(faults)


def _missing_bytes(file: BinaryIO) -> int:
    """Bytes by which a WAV file is shorter than its header says; 0 for other files and for streamed ones."""
    header = file.read(8)
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    size = int.from_bytes(header[4:8], "little")
    streamed = size in (0, 2**32 - 1)
    return 0 if header[:4] != b"RIFF" or streamed else max(0, 8 + size - length)


def write_audio(path: Path, waveform: np.ndarray, sample_rate: int) -> None:
    """Write sound (channels, samples) with full scale 1, in the format of the path's suffix, one of `WRITABLE`.

    The write is atomic. WAV and FLAC have 16 bits. Peaks above full scale are clipped, with a warning.

    Raises:
        UsageError: an unknown suffix.
        DataError: values that are not finite, or a sample rate or number of channels that the format does not support.
        OutputError: the file cannot be written.
    """
    write_blocks(path, [waveform], len(waveform), sample_rate)


def write_blocks(path: Path, blocks: Iterable[np.ndarray], channels: int, sample_rate: int) -> None:
    """As `write_audio`, for sound that comes in consecutive blocks (channels, samples)."""
    check_format(path, channels, sample_rate)
    file_format = file_format_of(path)
    order = VORBIS_ORDER.get(channels) if file_format == "OGG" else None
    peak = 0.0

    def write(temporary: Path) -> None:
        nonlocal peak
        with soundfile.SoundFile(temporary, "w", sample_rate, channels, format=file_format) as file:
            for block in blocks:
                if not np.isfinite(block).all():
                    raise DataError(f"{paths.relative(path)} is not written: the sound has values that are not finite")
                peak = max(peak, float(np.abs(block).max(initial=0)))
                interleaved = np.clip(block[list(order)] if order else block, -1, 1).T  # (samples, channels)
                for begin in range(0, len(interleaved), WRITE_BLOCK):
                    file.write(interleaved[begin : begin + WRITE_BLOCK])

    try:
        files.write_atomically(path, write)
    except soundfile.LibsndfileError as error:
        raise OutputError(f"{paths.relative(path)} cannot be written ({error.error_string})") from error
    if peak > 1:
        warnings.warn(f"{paths.relative(path)}: peaks of {20 * np.log10(peak):.1f} dB are clipped", stacklevel=3)


def file_format_of(path: Path) -> str:
    """The format that the path's suffix means, as libsndfile names it. Raises UsageError."""
    if path.suffix.lower() not in WRITABLE:
        raise UsageError(f"cannot write {paths.relative(path)}: end its name in {', '.join(WRITABLE)}")
    return WRITABLE[path.suffix.lower()]


def check_format(path: Path, channels: int, sample_rate: int) -> None:
    """Raise DataError unless the format of the path's suffix supports `channels` at `sample_rate` Hz, and UsageError
    if the suffix is unknown."""
    file_format = file_format_of(path)
    try:
        if file_format == "OGG" and (sample_rate > OGG_MAX_RATE or channels > OGG_MAX_CHANNELS):
            raise ValueError(f"OGG supports at most {OGG_MAX_CHANNELS} channels and {OGG_MAX_RATE} Hz")
        soundfile.write(io.BytesIO(), np.zeros((1, channels)), sample_rate, format=file_format)
    except (ValueError, soundfile.LibsndfileError) as error:
        remedy = "use fewer channels" if file_format == "WAV" else "write WAV"
        raise DataError(
            f"{paths.relative(path)}: {file_format} cannot hold {channels} channels at {sample_rate} Hz: {remedy}"
        ) from error


def mix_to_mono(waveform: np.ndarray) -> np.ndarray:
    """Mono (samples,) of sound (channels, samples): the mean of the channels, or the loudest channel if they cancel.

    They cancel if the mean's power is more than 20 dB below the mean power of the channels, as it is for channels of
    inverted polarity.
    """
    mono = waveform.mean(axis=0)
    powers = np.square(waveform, dtype=np.float64).mean(axis=1)
    cancelled = np.square(mono, dtype=np.float64).mean() < CANCELLATION * powers.mean()
    return waveform[powers.argmax()] if cancelled else mono


def resample(waveform: np.ndarray, sample_rate: int, target_rate: int) -> np.ndarray:
    """Resample float32 (samples,) or (samples, channels) from `sample_rate` to `target_rate`, both in Hz."""
    return soxr.resample(waveform, sample_rate, target_rate, quality="HQ") if sample_rate != target_rate else waveform


def resample_blocks(blocks: Iterable[np.ndarray], sample_rate: int, target_rate: int) -> Iterator[np.ndarray]:
    """As `resample`, for sound that comes in consecutive blocks (channels, samples); some of the new ones are empty."""
    if sample_rate == target_rate:
        yield from blocks
        return
    resampler = None
    for block in blocks:
        resampler = resampler or soxr.ResampleStream(sample_rate, target_rate, len(block), "float32", "HQ")
        yield resampler.resample_chunk(np.ascontiguousarray(block.T)).T
    if resampler:
        yield resampler.resample_chunk(np.zeros((0, len(block)), np.float32), last=True).T


def trim_blocks(blocks: Iterable[np.ndarray], samples: int) -> Iterator[np.ndarray]:
    """As `pad_or_trim`, for sound that comes in consecutive blocks (channels, samples')."""
    for block in blocks:
        yield block[:, :samples]
        samples = max(0, samples - block.shape[1])
    if samples:
        yield np.zeros((len(block), samples), np.float32)


def pad_or_trim(waveform: np.ndarray, samples: int) -> np.ndarray:
    """The waveform (samples',) padded with zeros or trimmed at its end to `samples`."""
    return np.pad(waveform, (0, max(0, samples - len(waveform))))[:samples]
