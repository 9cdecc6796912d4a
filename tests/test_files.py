"""Atomic writes and JSON, and one clear line for each fault."""

import errno

import pytest

from src import files
from src.errors import CheckpointError, OutputError


def test_a_failed_write_leaves_the_previous_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("whole")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        files.write_atomically(path, fail)
    assert path.read_text() == "whole"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_a_write_that_the_system_refuses_is_named_and_leaves_the_previous_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("whole")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match=r"file\.txt cannot be written \(No space left on device\)"):
        files.write_atomically(path, fail)
    assert path.read_text() == "whole"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(OutputError, match=r"output\.json cannot be written"):
        files.save_json(tmp_path / "folder" / "output.json", {})


def test_json_comes_back(tmp_path):
    content = {"name": "Fréchet", "values": [1.5, None], "inner": {"a": 1}}
    files.save_json(tmp_path / "new" / "metrics.json", content)
    assert files.load_json(tmp_path / "new" / "metrics.json") == content


def test_missing_json_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing\.json does not exist"):
        files.load_json(tmp_path / "nothing.json")


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "metrics.json").write_text('{"final": ')
    with pytest.raises(CheckpointError, match=r"metrics\.json is not valid JSON"):
        files.load_json(tmp_path / "metrics.json")
