"""MUSDB18: splits by track, the download and its failures, excerpts."""

import functools
import http.server
import threading
import zipfile

import numpy as np
import pytest
import torch

from src import paths
from src.audio import data
from src.audio.sound_files import read_audio
from src.config import SPLITS, STEMS
from src.errors import DataError, DownloadError

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
    with pytest.raises(DataError, match="holds 1 test tracks, not 50"):
        data.load_musdb18("test", RATE, tmp_path)


def test_a_torn_file_in_the_cache_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "MUSDB18_CACHE", tmp_path)
    monkeypatch.setattr(data, "decode_stems", lambda path, sample_rate: np.ones((4, 100), np.float32))
    track = tmp_path / "a.stem.mp4"
    track.write_bytes(b"12345")
    assert next(data._decoded({"a": track}, "test", RATE)).shape == (4, 100)
    cached = tmp_path / str(RATE) / "test" / "a_5.npy"
    for content in (b"", cached.read_bytes()[:150], b"no array"):
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


def write_archive(path, train: int = 94, test: int = 50) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for subset, count in (("train", train), ("test", test)):
            for number in range(count):
                archive.writestr(f"{subset}/Band - Song {number}.stem.mp4", bytes(100) + bytes([number]))


def test_fetch_unpacks_the_whole_data_set(server, tmp_path):
    url, folder = server
    write_archive(folder / "musdb.zip")
    data.fetch(tmp_path / "MUSDB18", f"{url}/musdb.zip")
    assert len(list((tmp_path / "MUSDB18" / "train").iterdir())) == 94
    assert (tmp_path / "MUSDB18" / "test" / "Band - Song 7.stem.mp4").read_bytes() == bytes(100) + b"\x07"
    assert not (tmp_path / "MUSDB18-7s.zip").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [("truncate", "not a zip file"), ("omit", "93 train tracks instead of 94"), ("flip", "is damaged")],
)
def test_fetch_leaves_nothing_behind_of_a_damaged_archive(server, tmp_path, spoil, message):
    url, folder = server
    write_archive(folder / "musdb.zip", train=93 if spoil == "omit" else 94)
    content = bytearray((folder / "musdb.zip").read_bytes())
    if spoil == "flip":
        content[content.index(b"Song 3.stem.mp4") + 50] ^= 1
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
