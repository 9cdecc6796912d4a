"""MUSDB18: splits by track, the download and its failures, excerpts."""

import functools
import http.server
import shutil
import threading
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from src import paths
from src.audio import data
from src.audio.sound_files import read_audio
from src.config import SPLITS, STEMS
from src.errors import DataError, DownloadError, OutputError

RATE = 22050
COMPLETE = (paths.MUSDB18 / "train").is_dir() and (paths.MUSDB18 / "test").is_dir()
needs_musdb18 = pytest.mark.skipif(not COMPLETE, reason="MUSDB18 is not here")


@needs_musdb18
def test_every_track_is_in_one_split_only():
    names = {split: set(data.find_tracks(split, paths.MUSDB18)) for split in SPLITS}
    assert {split: len(found) for split, found in names.items()} == {"train": 80, "validation": 14, "test": 50}
    assert len(set.union(*names.values())) == 144
    assert "ANiMAL - Rockshow" in names["validation"]  # one of the field's validation tracks
    assert "The Easton Ellises - Falcon 69" in names["test"]


@needs_musdb18
def test_stems_add_up_to_the_mixture():
    path = data.find_tracks("test", paths.MUSDB18)["The Easton Ellises - Falcon 69"]
    mixture, rate = read_audio(path, stream=0)
    parts = [read_audio(path, stream)[0] for stream in range(1, 5)]
    assert rate == 44100 and mixture.shape == parts[0].shape
    error = np.square(mixture - sum(parts)).sum() / np.square(mixture).sum()
    assert error < 0.01  # each stream was compressed with loss by itself


def test_without_network_the_packaged_track_stands_in_and_says_so(tmp_path, monkeypatch):
    def no_network(folder):
        raise DownloadError("no network")

    monkeypatch.setattr(data, "fetch", no_network)
    with pytest.warns(UserWarning, match="no network.*packaged with stempeg"):
        tracks = data.load_musdb18("train", RATE, tmp_path / "empty")
    assert not tracks.complete and tracks.source == "stempeg sample"
    assert tracks.names == ("The Easton Ellises - Falcon 69",)
    assert tracks.waveforms[0].shape[0] == 4 and tracks.waveforms[0].dtype == torch.float32
    assert 0.01 < tracks.waveforms[0].abs().max() <= 1.2
    assert not any(tmp_path.rglob("*.*"))


def test_unknown_split_and_missing_data_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        data.load_musdb18("dev", RATE)
    with pytest.raises(DataError, match="run python -m src data"):
        data.load_musdb18("test", RATE, tmp_path, download=False)


def test_a_folder_with_too_few_tracks_is_refused(tmp_path):
    for subset in ("train", "test"):
        (tmp_path / subset).mkdir()
    (tmp_path / "test" / "Someone - Something.stem.mp4").touch()
    with pytest.raises(DataError, match="holds 1 test tracks, not 50: complete it"):
        data.load_musdb18("test", RATE, tmp_path)


HELD_OUT = "ANiMAL - Rockshow"  # a validation track
NAMES = {"train": ("A - Song", "B - Song", HELD_OUT), "test": ("Y - Song", "Z - Song")}


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> Path:
    """A data set of two training tracks, one validation track and two test tracks, in the layout of MUSDB18-HQ: in the
    left channel of a stem all samples are 0.1 times its number from 1, in the right channel twice that."""
    monkeypatch.setattr(data, "COUNTS", {"train": (2, 3), "validation": (1,), "test": (2,)})
    monkeypatch.setattr(paths, "MUSDB18_CACHE", tmp_path / "decoded")
    folder = tmp_path / "MUSDB18"
    for subset, names in NAMES.items():
        for index, name in enumerate(names):
            write_folder(folder / subset / name, 1000 + index)
    return folder


def write_folder(folder: Path, samples: int) -> None:
    folder.mkdir(parents=True)
    for number, stem in enumerate(("mixture", *STEMS)):
        sound = np.full((samples, 2), 0.1 * number, np.float32) * [1, 2]
        soundfile.write(folder / f"{stem}.wav", sound, RATE, subtype="FLOAT")


def test_folders_of_wav_files_are_read_as_tracks(stand_in):
    (stand_in / "train" / ".DS_Store").touch()
    (stand_in / "train" / "B - Song" / "._drums.wav").touch()
    (stand_in / "train" / ".hidden").mkdir()
    (stand_in / "train" / "notes").mkdir()
    (stand_in / "train" / "A - Song" / "mixture.wav").unlink()  # is not needed
    splits = {split: data.load_musdb18(split, RATE, stand_in) for split in SPLITS}
    assert splits["train"].names == ("A - Song", "B - Song") and splits["test"].names == NAMES["test"]
    assert splits["validation"].names == (HELD_OUT,)
    expected = torch.tensor([0.15, 0.3, 0.45, 0.6])[:, None].expand(4, 1001)  # means of both channels
    assert splits["train"].waveforms[1].shape == (4, 1001)
    torch.testing.assert_close(splits["train"].waveforms[1], expected)
    assert splits["test"].source == "MUSDB18-7s" and splits["test"].complete


def test_long_tracks_are_named_by_their_layout(stand_in, monkeypatch):
    monkeypatch.setattr(data, "EXCERPT_SECONDS", 0.01)
    assert data.load_musdb18("test", RATE, stand_in).source == "MUSDB18-HQ"
    monkeypatch.setattr(data, "decode_stems", lambda path, sample_rate: np.zeros((4, 1000), np.float32))
    for name in NAMES["test"]:
        shutil.rmtree(stand_in / "test" / name)
        (stand_in / "test" / f"{name}.stem.mp4").touch()
    assert data.load_musdb18("test", RATE, stand_in).source == "MUSDB18"


def test_a_wav_file_of_another_size_is_decoded_again(stand_in):
    data.load_musdb18("test", RATE, stand_in)
    soundfile.write(stand_in / "test" / "Z - Song" / "bass.wav", np.full(1010, 0.7, np.float32), RATE, subtype="FLOAT")
    changed = data.load_musdb18("test", RATE, stand_in).waveforms[1]
    assert changed[1, :1001].unique().tolist() == pytest.approx([0.7])
    assert len(list((paths.MUSDB18_CACHE / str(RATE) / "test").iterdir())) == 3


def test_faults_of_a_folder_of_wav_files_are_named(stand_in):
    drums = stand_in / "test" / "Z - Song" / "drums.wav"
    soundfile.write(drums, np.zeros(2 * RATE), RATE)
    with pytest.raises(DataError, match=r"test/Z - Song is damaged: its stems differ in length \(drums 2\.00"):
        data.load_musdb18("test", RATE, stand_in)
    drums.unlink()
    with pytest.raises(DataError, match=r"test/Z - Song lacks drums\.wav"):
        data.load_musdb18("test", RATE, stand_in)


def test_a_track_in_both_layouts_is_refused(stand_in):
    (stand_in / "train" / "B - Song.stem.mp4").touch()
    with pytest.raises(DataError, match=r"B - Song both as a \.stem\.mp4 and as a folder.*move one of them out of"):
        data.load_musdb18("validation", RATE, stand_in)


@pytest.mark.parametrize(
    "copied", ["B - Song (1)", "Copy of B - Song", "B - Song copy", "B - Song copy 2", "B - Song - Copy (3)"]
)
@pytest.mark.parametrize("layout", ["folder", "file"])
def test_a_copy_is_named(stand_in, copied, layout):
    if layout == "folder":
        shutil.copytree(stand_in / "train" / "B - Song", stand_in / "train" / copied)
    else:
        shutil.rmtree(stand_in / "train" / "B - Song")
        for name in ("B - Song", copied):
            (stand_in / "train" / f"{name}.stem.mp4").touch()
        copied += ".stem.mp4"
    with pytest.raises(DataError) as caught:  # although three tracks are a right number
        data.load_musdb18("train", RATE, stand_in)
    train = (stand_in / "train").as_posix()
    assert str(caught.value) == f"{train} holds copies of tracks: move {copied} out of {train}"


def test_a_mark_of_a_copy_may_belong_to_a_name(stand_in):
    (stand_in / "test" / "Z - Song").rename(stand_in / "test" / "Copy of Z (1)")
    assert data.load_musdb18("test", RATE, stand_in).names == ("Copy of Z (1)", "Y - Song")


def test_an_equal_track_of_another_name_is_named(stand_in):
    shutil.copytree(stand_in / "train" / "B - Song", stand_in / "test" / "Mine")
    with pytest.raises(DataError, match=r"3 test tracks, not 2: move .* out of \S+/test \(equal files: ") as caught:
        data.load_musdb18("test", RATE, stand_in)
    pairs = str(caught.value).split("equal files: ")[1]
    assert "train/B - Song = test/Mine" in pairs and "train/A - Song = test/Mine" not in pairs


def test_no_message_advises_to_delete_data():
    for module in ("audio", "image"):
        assert "delete" not in (paths.ROOT / "src" / module / "data.py").read_text().lower()


@pytest.mark.filterwarnings("error")
def test_tracks_are_mapped_from_the_cache_and_writing_to_them_keeps_it(stand_in, monkeypatch):
    first = data.load_musdb18("test", RATE, stand_in).waveforms[0]
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(paths.MUSDB18_CACHE / str(RATE) / "test" / "Y - Song_") in maps.read_text()
    first.zero_()
    monkeypatch.setattr(data, "decode_stems", None)  # is not called again
    again = data.load_musdb18("test", RATE, stand_in).waveforms[0]
    assert not first.any() and again.all()
    assert again.numpy().flags.writeable and again.is_contiguous()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux")
def test_a_loaded_track_keeps_no_file_open(stand_in):
    before = len(list(Path("/proc/self/fd").iterdir()))
    tracks = data.load_musdb18("test", RATE, stand_in)
    assert len(list(Path("/proc/self/fd").iterdir())) == before and len(tracks) == 2


def test_a_torn_file_in_the_cache_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "MUSDB18_CACHE", tmp_path)
    monkeypatch.setattr(data, "decode_stems", lambda path, sample_rate: np.ones((4, 100), np.float32))
    track = tmp_path / "a.stem.mp4"
    track.write_bytes(b"12345")
    assert next(data._decoded({"a": track}, "test", RATE)).shape == (4, 100)
    cached = tmp_path / str(RATE) / "test" / "a_5.npy"
    whole = cached.read_bytes()
    for content in (b"", whole[:150], whole[:-1], whole.replace(b"<f4", b"<i4"), b"no array"):
        cached.write_bytes(content)
        assert next(data._decoded({"a": track}, "test", RATE)).shape == (4, 100)
        assert np.load(cached).shape == (4, 100)


def test_stems_of_different_length_are_reported(tmp_path, monkeypatch):
    lengths = iter([50, RATE * 5, RATE * 5, RATE * 5])
    monkeypatch.setattr(data, "read_audio", lambda path, stream: (np.zeros((2, next(lengths)), np.float32), RATE))
    with pytest.raises(DataError, match=r"a\.stem\.mp4 is damaged: its stems differ in length \(drums 0\.00"):
        data.decode_stems(tmp_path / "a.stem.mp4", RATE)


@pytest.fixture
def server(tmp_path):
    """A local stand-in for the download site, and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()


def write_archive(path, train: int = 94, test: int = 50, method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for subset, count in (("train", train), ("test", test)):
            for number in range(count):
                archive.writestr(f"{subset}/Band - Song {number}.stem.mp4", bytes(100) + bytes([number]))


def test_fetch_unpacks_the_whole_data_set(server, tmp_path):
    url, folder = server
    write_archive(folder / "musdb.zip")
    data.fetch(tmp_path / "MUSDB18", f"{url}/musdb.zip")
    assert len(list((tmp_path / "MUSDB18" / "train").iterdir())) == 94
    assert (tmp_path / "MUSDB18" / "test" / "Band - Song 7.stem.mp4").read_bytes() == bytes(100) + b"\x07"
    assert {path.name for path in (tmp_path / "MUSDB18").iterdir()} == {"train", "test"}  # and no archive


def test_fetch_ignores_hidden_twins_and_keeps_an_archive_of_the_user(server, tmp_path):
    url, folder = server
    write_archive(folder / "musdb.zip")
    with zipfile.ZipFile(folder / "musdb.zip", "a") as archive:
        archive.writestr("__MACOSX/train/._Band - Song 1.stem.mp4", b"twin")
    (tmp_path / "MUSDB18-7s.zip").write_bytes(b"mine")
    data.fetch(tmp_path / "MUSDB18", f"{url}/musdb.zip")
    assert len(list((tmp_path / "MUSDB18" / "train").iterdir())) == 94
    assert (tmp_path / "MUSDB18-7s.zip").read_bytes() == b"mine"


def test_fetch_reads_each_member_once(server, tmp_path, monkeypatch):
    url, folder = server
    write_archive(folder / "musdb.zip")
    opened, original = [], zipfile.ZipFile.open

    def open_member(self, name, *arguments, **options):
        opened.append(name)
        return original(self, name, *arguments, **options)

    monkeypatch.setattr(zipfile.ZipFile, "open", open_member)
    data.fetch(tmp_path / "MUSDB18", f"{url}/musdb.zip")
    assert len(opened) == 94 + 50


class Killed(BaseException):
    """Stands for the end of the process: what follows in `fetch` is not run."""


def kill_at(monkeypatch, module, name: str, calls: int) -> None:
    """Make the given call of a function, counted from 1, the last act of the process."""
    original, done = getattr(module, name), []

    def killed(*arguments, **options):
        done.append(arguments)
        if len(done) == calls:
            monkeypatch.setattr(data.shutil, "rmtree", lambda *_, **__: None)  # nothing is cleaned up
            raise Killed
        return original(*arguments, **options)

    monkeypatch.setattr(module, name, killed)


@pytest.mark.parametrize(
    ("module", "name", "calls", "left"),
    [(data.files, "write_atomically", 100, []), (data, "_rename", 1, []), (data, "_rename", 2, ["train"])],
)
def test_the_next_fetch_goes_on_after_a_kill(server, tmp_path, module, name, calls, left):
    url, served = server
    write_archive(served / "musdb.zip")
    folder = tmp_path / "MUSDB18"
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_at(monkeypatch, module, name, calls)
        with pytest.raises(Killed):
            data.fetch(folder, f"{url}/musdb.zip")
    assert [path.name for path in folder.iterdir() if path.name != data.UNPACKING] == left
    assert (folder / data.UNPACKING).is_dir()
    (folder / data.UNPACKING / "other").touch()
    data.fetch(folder, f"{url}/musdb.zip")
    assert {path.name for path in folder.iterdir()} == {"train", "test"}
    assert len(list((folder / "train").iterdir())) == 94 and len(list((folder / "test").iterdir())) == 50


@pytest.mark.parametrize("subset", ["train", "test"])
def test_fetch_does_not_touch_files_of_the_user(server, tmp_path, subset):
    url, served = server
    write_archive(served / "musdb.zip")
    mine = tmp_path / "MUSDB18" / subset / "Band - Song 1.stem.mp4"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    for left in (False, True):  # with what a killed download left, too
        if left:
            for other in ("train", "test"):
                (tmp_path / "MUSDB18" / data.UNPACKING / other).mkdir(parents=True)
        with pytest.raises(DataError, match=f"MUSDB18 holds {subset}, but not the whole of MUSDB18.*move it elsewhere"):
            data.fetch(tmp_path / "MUSDB18", f"{url}/musdb.zip")
        assert [path for path in (tmp_path / "MUSDB18").rglob("*") if path.is_file()] == [mine]
        assert mine.read_bytes() == b"mine"


def test_a_data_set_that_cannot_be_written_is_no_matter_of_the_network(server, tmp_path, monkeypatch):
    url, served = server
    write_archive(served / "musdb.zip")
    (tmp_path / "data").touch()  # a file in place of the folder
    fetch = data.fetch
    monkeypatch.setattr(data, "fetch", lambda folder: fetch(folder, f"{url}/musdb.zip"))
    with warnings.catch_warnings(), pytest.raises(OutputError, match=r"data/MUSDB18.* cannot be written"):
        warnings.simplefilter("error")
        data.load_musdb18("test", RATE, tmp_path / "data" / "MUSDB18")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("truncate", "not a zip file"),
        ("omit", "93 train tracks instead of 94"),
        ("flip", "Song 3.stem.mp4 is damaged"),
        ("flip packed", "Song 3.stem.mp4 is damaged"),
        ("encrypt", "is encrypted"),
    ],
)
def test_fetch_leaves_nothing_behind_of_a_damaged_archive(server, tmp_path, spoil, message):
    url, folder = server
    method = zipfile.ZIP_DEFLATED if spoil == "flip packed" else zipfile.ZIP_STORED
    write_archive(folder / "musdb.zip", train=93 if spoil == "omit" else 94, method=method)
    content = bytearray((folder / "musdb.zip").read_bytes())
    if spoil == "flip":
        content[content.index(b"Song 3.stem.mp4") + 50] ^= 1
    if spoil == "flip packed":
        content[content.index(b"Song 3.stem.mp4") + 15] = 0xFF  # an unknown kind of block
    if spoil == "encrypt":
        content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag of the first entry in the directory
    (folder / "musdb.zip").write_bytes(content[:-500] if spoil == "truncate" else content)
    with pytest.raises(DownloadError, match=message):
        data.fetch(tmp_path / "MUSDB18", f"{url}/musdb.zip")
    assert not (tmp_path / "MUSDB18").exists() and not (tmp_path / "MUSDB18-7s.zip").exists()


def test_fetch_says_what_it_tried(server, tmp_path):
    url, _ = server
    with pytest.raises(DownloadError, match=f"{url}/none.zip.*404"):
        data.fetch(tmp_path / "MUSDB18", f"{url}/none.zip")


def test_excerpts_avoid_silence_while_they_can():
    stems = torch.zeros(4, 1000)
    stems[0, 500:] = 0.5
    tracks = data.Tracks((stems,), ("a",), RATE, "half silent")
    stream = torch.Generator()
    assert all(data.draw_excerpt(tracks, 0, 100, stream).any() for _ in range(20))
    assert not data.draw_excerpt(tracks, 1, 100, stream).any()
    assert data.draw_excerpt(tracks, 0, 3000, stream).shape == (3000,)
    assert len(tracks.first(1)) == len(tracks.first(None)) == 1


def test_examples_are_the_stems_of_one_song(tmp_path):
    tracks = data.Tracks((torch.full((4, 500), 0.25),), (data.EXAMPLE,), RATE, "stempeg sample")
    written = data.write_examples(tracks, tmp_path)
    assert [path.name for path in written] == [f"{data.EXAMPLE} - {stem}.wav" for stem in STEMS]
    assert np.allclose(read_audio(written[0])[0], 0.25, atol=1e-4)
