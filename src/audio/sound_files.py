"""Sound files: read any format, write WAV, FLAC, OGG or MP3, resample."""

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr

from src import files, paths
from src.errors import DataError, OutputError

# Formats that open other files, devices or addresses, and so are no sound files.
REFERENCES = {
    "alsa", "concat", "dash", "fbdev", "ffmetadata", "hls", "image2", "image2pipe", "imf", "lavfi", "oss", "rtp",
    "rtsp", "sdp", "tty", "video4linux2,v4l2", "webm_dash_manifest", "x11grab",
}  # fmt: skip
SOUND_FORMATS = ",".join(sorted(av.formats_available - REFERENCES))
EXACT_DURATION = {  # formats whose duration is recorded in the file; for others FFmpeg estimates it
    "wav", "w64", "aiff", "caf", "au", "flac", "ogg", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2",
}  # fmt: skip
MIN_RATE, MAX_RATE = 1_000, 1_000_000  # Hz
MAX_GAP = 0.01  # seconds by which positions in a container may be rounded
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
WRITE_BLOCK = (
    2**16
)  # samples a channel: libsndfile's OGG encoder puts a block on the stack, which a song would overflow
OGG_MAX_RATE, OGG_MAX_CHANNELS = 200_000, 255  # in Hz; beyond these that encoder crashes instead of refusing


def read_audio(path: Path, stream: int = 0) -> tuple[np.ndarray, int]:
    """Decode a sound file of any format that FFmpeg's libraries support (WAV, FLAC, MP3, Ogg, MP4 ...).

    Returns float32 (channels, samples) with full scale 1, and the sample rate in Hz. `stream` is the number of the
    audio stream, for files with several, such as a .stem.mp4.

    Damaged packets are skipped, with a warning. If the container gives the position of the sound after the damage,
    silence keeps it there.

    Raises:
        DataError: the file is missing, is no sound file, or has no such stream. Playlists are refused: they would open
            the files and addresses that they name.
    """
    name = paths.relative(path)
    try:
        # A file object, not a path: FFmpeg would take "Take:1.wav" for a protocol.
        with open(path, "rb") as file, av.open(file, options={"format_whitelist": SOUND_FORMATS}) as container:
            count = len(container.streams.audio)
            if not count:
                raise DataError(f"{name} holds no sound: it has no audio stream")
            if stream >= count:
                raise DataError(f"{name} has {count} audio streams, and so none of number {stream}")
            missing = _missing_bytes(path)
            decoder = _Decoder(container, container.streams.audio[stream])
    except av.ArgumentError as error:
        raise DataError(f"{name} is no sound file: playlists and lists of files are not opened") from error
    except (OSError, av.FFmpegError) as error:
        raise DataError(f"{name} cannot be decoded ({error.strerror or error})") from error
    if not decoder.parts:
        raise DataError(f"{name} holds no sound")
    if not MIN_RATE <= decoder.sample_rate <= MAX_RATE:
        raise DataError(f"{name} has a sample rate of {decoder.sample_rate} Hz: supported are {MIN_RATE} to {MAX_RATE}")
    if report := decoder.report() or (missing and f"the file is incomplete: {missing:,} bytes are missing at its end"):
        warnings.warn(f"{name}: {report}", stacklevel=2)
    return np.concatenate(decoder.parts, axis=1), decoder.sample_rate


class _Decoder:
    """Decodes one audio stream packet by packet, and counts the damage."""

    def __init__(self, container: av.container.InputContainer, source: av.AudioStream):
        self.parts: list[np.ndarray] = []  # float32 (channels, samples) each
        self.sample_rate = source.rate  # Hz
        self.samples = 0  # in all parts
        self.promised = 0  # samples, by the container's header; 0 if it holds an estimate
        if container.format.name in EXACT_DURATION:
            of_stream = source.duration and float(source.duration * source.time_base)
            self.promised = round((of_stream or (container.duration or 0) / av.time_base) * source.rate)
        self.damaged = 0  # packets
        self.silence = 0  # samples inserted for missing sound
        self.first: av.AudioFrame | None = None
        self.converters: dict[tuple, av.AudioResampler] = {}  # for each kind of frame
        self._decode(container.demux(source))

    def _decode(self, packets: Iterator[av.Packet]) -> None:
        while True:
            try:
                packet = next(packets, None)
                frames = packet.decode() if packet is not None else []
            except av.FFmpegError:
                self.damaged += 1
                continue
            if packet is None:
                if self.first and not self.parts:  # the only frame
                    self.sample_rate = self.first.sample_rate
                    self._add(self.first)
                return
            for frame in frames:
                if self.first is None:
                    self.first = frame
                    continue
                if not self.parts:
                    # FFmpeg gives a frame the sample rate of the one before it, and the first one any rate in the file.
                    self.first.sample_rate = self.sample_rate = frame.sample_rate
                    self._add(self.first)
                self._add(frame)

    def _add(self, frame: av.AudioFrame) -> None:
        self._keep_position(frame)
        # Joined files may change their sample rate or channels in the middle: convert to those of the first frame. The
        # samples are packed, because PyAV gives wrong planes for 8 and more channels.
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind not in self.converters:
            self.converters[kind] = av.AudioResampler("flt", self.first.layout, self.sample_rate)
        for part in self.converters[kind].resample(frame):
            self._append(part.to_ndarray().reshape(-1, self.first.layout.nb_channels).T)

    def _append(self, part: np.ndarray) -> None:
        self.parts.append(part)
        self.samples += part.shape[1]

    def _keep_position(self, frame: av.AudioFrame) -> None:
        """Insert silence before `frame` if the container places it after the end of the sound decoded so far."""
        if frame.pts is None or self.first.pts is None or frame.time_base is None:
            return
        position = round(float((frame.pts - self.first.pts) * frame.time_base) * self.sample_rate)
        if position - self.samples > MAX_GAP * self.sample_rate and position < self.promised:
            self.silence += position - self.samples
            self._append(np.zeros((self.first.layout.nb_channels, position - self.samples), np.float32))

    def report(self) -> str:
        """The damage in words; empty if there is none."""
        faults = []
        if self.damaged:
            faults.append(f"{self.damaged} damaged packets were skipped")
        if self.silence:
            faults.append(f"{self.silence / self.sample_rate:.2f} s of missing sound are silent")
        if self.samples < self.promised - self.sample_rate * MAX_SHORTFALL:
            promised, found = self.promised / self.sample_rate, self.samples / self.sample_rate
            faults.append(f"the file is incomplete: it promises {promised:.2f} s and holds {found:.2f} s")
        return "; ".join(faults)


def _missing_bytes(path: Path) -> int:
    """Bytes by which a WAV file is shorter than its header says; 0 for other files and for streamed ones."""
    with open(path, "rb") as file:
        header = file.read(8)
    size = int.from_bytes(header[4:8], "little")
    streamed = size in (0, 2**32 - 1)
    return 0 if header[:4] != b"RIFF" or streamed else max(0, 8 + size - path.stat().st_size)


def write_audio(path: Path, waveform: np.ndarray, sample_rate: int) -> None:
    """Write sound (channels, samples) with full scale 1, in the format of the path's suffix, one of `WRITABLE`.

    The write is atomic. WAV and FLAC have 16 bits. Peaks above full scale are clipped, with a warning.

    Raises:
        DataError: values that are not finite, or a sample rate or number of channels that the format does not support.
        OutputError: the file cannot be written.
    """
    if not np.isfinite(waveform).all():
        raise DataError(f"{paths.relative(path)} is not written: the sound holds values that are not finite")
    peak = float(np.abs(waveform).max(initial=0))
    if peak > 1:
        warnings.warn(f"{paths.relative(path)}: peaks of {20 * np.log10(peak):.1f} dB are clipped", stacklevel=2)
    check_format(path, len(waveform), sample_rate)
    file_format = WRITABLE[path.suffix.lower()]
    order = VORBIS_ORDER.get(len(waveform)) if file_format == "OGG" else None
    ordered = waveform[list(order)] if order else waveform
    interleaved = np.clip(ordered, -1, 1).T  # (samples, channels)

    def write(temporary: Path) -> None:
        with soundfile.SoundFile(temporary, "w", sample_rate, len(waveform), format=file_format) as file:
            for begin in range(0, len(interleaved), WRITE_BLOCK):
                file.write(interleaved[begin : begin + WRITE_BLOCK])

    try:
        files.write_atomically(path, write)
    except soundfile.LibsndfileError as error:
        raise OutputError(f"{paths.relative(path)} cannot be written ({error.error_string})") from error


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


def pad_or_trim(waveform: np.ndarray, samples: int) -> np.ndarray:
    """The waveform (samples',) padded with zeros or trimmed at its end to `samples`."""
    return np.pad(waveform, (0, max(0, samples - len(waveform))))[:samples]
