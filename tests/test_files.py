"""Atomic writes and JSON, and one clear line for each fault."""

import errno
import os
import time

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


def test_temporary_files_of_killed_writers_are_deleted_and_those_of_live_ones_stay(tmp_path):
    abandoned, live, foreign = (tmp_path / name for name in (".unfinished-a.tmp", ".unfinished-b.tmp", "notes.tmp"))
    for path in (abandoned, live, foreign):
        path.touch()
    for path in (abandoned, foreign):
        os.utime(path, (0, time.time() - files.ABANDONED - 1))
    os.utime(live, (0, time.time() - files.ABANDONED / 2))
    files.save_text(tmp_path / "file.txt", "new")
    assert {path.name for path in tmp_path.iterdir()} == {"file.txt", live.name, foreign.name}


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


def test_finished_parts_are_not_computed_again(tmp_path):
    path = tmp_path / "partial.json"
    assert files.PartialResults(path, {"seed": 0})("first", lambda: {1: (2.5, None)}) == {"1": [2.5, None]}
    again = files.PartialResults(path, {"seed": 0})
    assert again("first", lambda: pytest.fail("computed again")) == {"1": [2.5, None]}
    assert again("second", max, 1, 2) == 2
    assert files.PartialResults(path, {"seed": 0}).parts == {"first": {"1": [2.5, None]}, "second": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"key": {"seed": 1}, "parts": {"first": 1}}', "was begun with another model, protocol, data or machine"),
        ('{"key": {"seed": 0}, "parts": {"fir', "is damaged"),
        ('{"key": {"seed": 0}, "parts": 1}', "is damaged"),
        ('{"parts": {}}', "is damaged"),
        ("[1]", "is damaged"),
        ("\0", "is damaged"),
    ],
)
def test_partial_results_of_something_else_are_ignored_with_a_warning(tmp_path, content, message):
    path = tmp_path / "partial.json"
    path.write_text(content)
    with pytest.warns(UserWarning, match=rf"partial\.json {message}: beginning again"):
        partial = files.PartialResults(path, {"seed": 0})
    assert partial("first", lambda: 7) == 7
    assert files.PartialResults(path, {"seed": 0}).parts == {"first": 7}
