"""Atomic writes and JSON, and one clear line for each fault."""

import errno
import os

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


def test_writers_of_one_file_do_not_share_a_temporary_file(tmp_path):
    path = tmp_path / "file.txt"

    def write(temporary):
        temporary.write_text("outer")
        files.save_text(path, "inner")  # another writer, in the middle
        assert temporary.read_text() == "outer" and path.read_text() == "inner"

    files.write_atomically(path, write)
    assert path.read_text() == "outer"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_the_longest_name_can_be_written(tmp_path):
    path = tmp_path / ("x" * 251 + ".txt")
    files.save_text(path, "long")
    assert path.read_text() == "long"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes and links")
def test_a_link_stays_a_link_and_a_new_file_has_the_usual_mode(tmp_path):
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    files.save_text(target, "old")
    (tmp_path / "other.txt").write_text("by open")
    assert target.stat().st_mode == (tmp_path / "other.txt").stat().st_mode
    link.symlink_to(target)
    files.save_text(link, "new")
    assert link.is_symlink() and target.read_text() == "new"


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
    with pytest.raises(CheckpointError, match=r"metrics\.json is damaged"):
        files.load_json(tmp_path / "metrics.json")
