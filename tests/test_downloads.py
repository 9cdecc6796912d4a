"""Downloads from a local stand-in: the next address, checksums, and what is remembered of a failure."""

import functools
import hashlib
import http.server
import threading

import pytest

from src import downloads
from src.errors import DownloadError, OutputError

CONTENT = b"all of it" * 1000


@pytest.fixture
def server(tmp_path):
    """A local server of one file; yields its address."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file.bin").write_bytes(CONTENT)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_the_next_address_is_tried(server, tmp_path):
    target = tmp_path / "here" / "file.bin"
    urls = ["http://127.0.0.1:9/file.bin", f"{server}/none.bin", f"{server}/file.bin"]
    downloads.download(urls, target, hashlib.md5(CONTENT).hexdigest())
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["file.bin"]


def test_every_failure_is_named_and_nothing_is_left(server, tmp_path):
    target = tmp_path / "here" / "file.bin"
    with pytest.raises(
        DownloadError, match=rf"{server}/none.bin: 404.*; {server}/file.bin: the file sent has a wrong MD5"
    ):
        downloads.download([f"{server}/none.bin", f"{server}/file.bin"], target, "0" * 32)
    assert not list(tmp_path.glob("here/*"))


def test_a_download_cut_short_is_a_failure(tmp_path):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:100])

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        with pytest.raises(DownloadError):
            downloads.download([f"http://127.0.0.1:{running.server_port}/x"], tmp_path / "here" / "file.bin")
        running.shutdown()
    assert not list(tmp_path.glob("here/*"))


def test_a_folder_that_cannot_be_written_is_no_failure_of_the_address(server, tmp_path, recwarn):
    (tmp_path / "here").touch()  # a file in place of the folder
    with pytest.raises(OutputError, match=r"here/file\.bin cannot be written \("):
        downloads.download([f"{server}/file.bin"], tmp_path / "here" / "file.bin")

    def fetch(folder):
        raise OutputError("no permission")

    for _ in range(2):  # it is not remembered either
        with pytest.raises(OutputError, match="no permission"):
            downloads.fetch_or_warn(fetch, tmp_path, "Digits", "three digits")
    assert not recwarn.list


def test_a_failure_is_remembered_for_a_while_and_a_success_forgets_it(tmp_path, monkeypatch):
    calls = []

    def fetch(folder):
        calls.append(folder)
        if len(calls) < 3:
            raise DownloadError("no network")

    now = 1000.0
    monkeypatch.setattr(downloads.time, "monotonic", lambda: now)
    with pytest.warns(UserWarning, match=r"Digits could not be downloaded \(no network\)\. Using three digits instead"):
        assert not downloads.fetch_or_warn(fetch, tmp_path, "Digits", "three digits")
        assert not downloads.fetch_or_warn(fetch, tmp_path, "Digits", "three digits")
    assert len(calls) == 1
    now += downloads.RETRY_AFTER
    with pytest.warns(UserWarning, match="no network"):
        assert not downloads.fetch_or_warn(fetch, tmp_path, "Digits", "three digits")
    now += downloads.RETRY_AFTER
    assert downloads.fetch_or_warn(fetch, tmp_path, "Digits", "three digits")
    assert len(calls) == 3
