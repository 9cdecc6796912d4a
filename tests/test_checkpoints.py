"""Atomic writes, safe loads, and one clear line for each damaged file."""

import os
import pickle

import pytest
import torch

from src import checkpoints


def test_a_failed_write_leaves_the_previous_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("whole")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        checkpoints.write_atomically(path, fail)
    assert path.read_text() == "whole"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_state_comes_back_as_it_was(tmp_path):
    state = {"tensor": torch.randn(3, dtype=torch.bfloat16), "epoch": 3, "scores": [{"fid": 1.5}], "name": "x"}
    checkpoints.save_state(tmp_path / "state.pt", state)
    loaded = checkpoints.load_state(tmp_path / "state.pt")
    assert torch.equal(loaded.pop("tensor"), state.pop("tensor"))
    assert loaded == state


def test_weights_come_back_with_their_description(tmp_path):
    weights = {"a": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), "count": torch.tensor(7)}
    checkpoints.save_weights(tmp_path / "model.safetensors", weights, {"epoch": 5})
    loaded, description = checkpoints.load_weights(tmp_path / "model.safetensors")
    assert description == {"epoch": 5}
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


class Malicious:
    def __reduce__(self):
        return os.system, ("echo code ran",)


def test_code_in_a_state_is_refused(tmp_path, capfd):
    (tmp_path / "state.pt").write_bytes(pickle.dumps(Malicious(), protocol=2))
    with pytest.raises(checkpoints.CheckpointError, match=r"state\.pt cannot be read"):
        checkpoints.load_state(tmp_path / "state.pt")
    assert "code ran" not in capfd.readouterr().out


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_truncated_files_are_named(tmp_path, keep):
    checkpoints.save_state(tmp_path / "state.pt", {"tensor": torch.randn(100)})
    checkpoints.save_weights(tmp_path / "model.safetensors", {"tensor": torch.randn(100)}, {})
    for name in ("state.pt", "model.safetensors"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:keep])
    with pytest.raises(checkpoints.CheckpointError, match=r"state\.pt cannot be read"):
        checkpoints.load_state(tmp_path / "state.pt")
    with pytest.raises(checkpoints.CheckpointError, match=r"model\.safetensors is damaged"):
        checkpoints.load_weights(tmp_path / "model.safetensors")


def test_missing_files_are_named(tmp_path):
    for load in (checkpoints.load_state, checkpoints.load_weights, checkpoints.load_json):
        with pytest.raises(checkpoints.CheckpointError, match=r"nothing\.pt does not exist"):
            load(tmp_path / "nothing.pt")


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "metrics.json").write_text('{"final": ')
    with pytest.raises(checkpoints.CheckpointError, match=r"metrics\.json is not valid JSON"):
        checkpoints.load_json(tmp_path / "metrics.json")
