"""Sound files: read any format, write WAV, FLAC, OGG or MP3, resample."""

import io
import warnings
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr

from src import files, paths
from src.errors import DataError

WRITABLE = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}
WRITE_BLOCK = (
    2**16
)  # samples a channel: libsndfile's OGG encoder puts a block on the stack, which a song would overflow
OGG_MAX_RATE, OGG_MAX_CHANNELS = 200_000, 255  # in Hz; beyond these that encoder crashes instead of refusing


def read_audio(path: Path, stream: int = 0) -> tuple[np.ndarray, int]:
    """Decode any file that FFmpeg's libraries know (WAV, FLAC, MP3, Ogg, MP4 ...).

    Returns float32 (channels, samples) with full scale 1, and the sample rate in Hz. `stream` is the number of the
    audio stream, for files with several, such as a .stem.mp4.

    Raises:
        DataError: the file is missing, damaged, or has no such stream.
    """
    try:
        with av.open(str(path)) as container:
            if stream >= len(container.streams.audio):
                raise DataError(f"{paths.relative(path)} has {len(container.streams.audio)} audio streams, "
                                f"and so none of number {stream}")  # fmt: skip
            source = container.streams.audio[stream]
            planar = av.AudioResampler(format="fltp")
            frames = [part.to_ndarray() for frame in container.decode(source) for part in planar.resample(frame)]
            sample_rate = source.rate
    except (OSError, av.FFmpegError) as error:
        raise DataError(f"{paths.relative(path)} cannot be decoded ({error.strerror or error})") from error
    if not frames:
        raise DataError(f"{paths.relative(path)} holds no sound")
    return np.concatenate(frames, axis=1), sample_rate


def write_audio(path: Path, waveform: np.ndarray, sample_rate: int) -> None:
    """Write sound (channels, samples) with full scale 1, in the format of the path's suffix, one of `WRITABLE`.

    The write is atomic. WAV and FLAC have 16 bits. Peaks above full scale are clipped, with a warning.

    Raises:
        DataError: the format does not support the sample rate or the number of channels.
        OutputError: the file cannot be written.
    """
    peak = float(np.abs(waveform).max(initial=0))
    if peak > 1:
        warnings.warn(f"{paths.relative(path)}: peaks of {20 * np.log10(peak):.1f} dB are clipped", stacklevel=2)
    check_format(path, len(waveform), sample_rate)
    interleaved = np.clip(waveform, -1, 1).T  # (samples, channels)

    def write(temporary: Path) -> None:
        file_format = WRITABLE[path.suffix.lower()]
        with soundfile.SoundFile(temporary, "w", sample_rate, len(waveform), format=file_format) as file:
            for begin in range(0, len(interleaved), WRITE_BLOCK):
                file.write(interleaved[begin : begin + WRITE_BLOCK])

    try:
        files.write_atomically(path, write)
    except soundfile.LibsndfileError as error:
        raise DataError(f"{paths.relative(path)} cannot be written ({error.error_string})") from error


def check_format(path: Path, channels: int, sample_rate: int) -> None:
    """Raise DataError unless the format of the path's suffix supports `channels` at `sample_rate` Hz."""
    file_format = WRITABLE[path.suffix.lower()]
    try:
        if file_format == "OGG" and (sample_rate > OGG_MAX_RATE or channels > OGG_MAX_CHANNELS):
            raise ValueError(f"OGG supports at most {OGG_MAX_CHANNELS} channels and {OGG_MAX_RATE} Hz")
        soundfile.write(io.BytesIO(), np.zeros((1, channels)), sample_rate, format=file_format)
    except (ValueError, soundfile.LibsndfileError) as error:
        remedy = "use fewer channels" if file_format == "WAV" else "write WAV"
        raise DataError(
            f"{paths.relative(path)}: {file_format} cannot hold {channels} channels at {sample_rate} Hz: {remedy}"
        ) from error


def resample(waveform: np.ndarray, sample_rate: int, target_rate: int) -> np.ndarray:
    """Resample float32 (samples,) or (samples, channels) from `sample_rate` to `target_rate`, both in Hz."""
    return soxr.resample(waveform, sample_rate, target_rate, quality="HQ") if sample_rate != target_rate else waveform


def pad_or_trim(waveform: np.ndarray, samples: int) -> np.ndarray:
    """The waveform (samples',) padded with zeros or trimmed at its end to `samples`."""
    return np.pad(waveform, (0, max(0, samples - len(waveform))))[:samples]
