"""Safe loads of states and weights, and one clear line for each damaged file."""

import hashlib
import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from src import checkpoints, paths
from src.config import AudioConfig, ClassifierConfig, FlowConfig, ImageConfig, StemClassifierConfig, from_json
from src.errors import CheckpointError, OutputError


def test_state_comes_back_as_it_was(tmp_path):
    state = {"tensor": torch.randn(3, dtype=torch.bfloat16), "epoch": 3, "scores": [{"fid": 1.5}], "name": "x"}
    checkpoints.save_state(tmp_path / "state.pt", state)
    loaded = checkpoints.load_state(tmp_path / "state.pt")
    assert torch.equal(loaded.pop("tensor"), state.pop("tensor"))
    assert loaded == state


def test_weights_come_back_with_their_description(tmp_path):
    weights = {"a": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), "count": torch.tensor(7)}
    checkpoints.save_weights(tmp_path / "model.safetensors", weights, {"epoch": 5})
    (tmp_path / "model.json").unlink()  # the file alone is the model
    loaded, description = checkpoints.load_weights(tmp_path / "model.safetensors")
    assert description == {"epoch": 5}
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


class Malicious:
    def __reduce__(self):
        return os.system, ("echo code ran",)


def test_code_in_a_state_is_refused(tmp_path, capfd):
    (tmp_path / "state.pt").write_bytes(pickle.dumps(Malicious(), protocol=2))
    with pytest.raises(CheckpointError, match=r"state\.pt cannot be read"):
        checkpoints.load_state(tmp_path / "state.pt")
    assert "code ran" not in capfd.readouterr().out


def test_a_state_that_holds_other_objects_is_refused(tmp_path):
    torch.save(torch.nn.Linear(1, 1), tmp_path / "network.pt")
    with pytest.raises(
        CheckpointError, match=r"network\.pt is not a training state of this project: it holds more than"
    ):
        checkpoints.load_state(tmp_path / "network.pt")


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_truncated_files_are_named(tmp_path, keep):
    checkpoints.save_state(tmp_path / "state.pt", {"tensor": torch.randn(100)})
    checkpoints.save_weights(tmp_path / "model.safetensors", {"tensor": torch.randn(100)}, {})
    for name in ("state.pt", "model.safetensors"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"state\.pt cannot be read"):
        checkpoints.load_state(tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        checkpoints.load_weights(tmp_path / "model.safetensors")


def test_a_state_with_one_altered_bit_is_refused(tmp_path):
    path = tmp_path / "state.pt"
    checkpoints.save_state(path, {"tensor": torch.arange(1000)})
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(500, 510).numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"state\.pt cannot be read \(the checksum of .*/data/0 is wrong\)"):
        checkpoints.load_state(path)


def test_a_state_whose_list_of_records_is_altered_is_refused(tmp_path):
    path = tmp_path / "state.pt"
    checkpoints.save_state(path, {"tensor": torch.arange(1000)})
    whole = path.read_bytes()
    folder = bytearray(whole)
    record = folder.index(b"PK\1\2", folder.index(b"PK\1\2") + 1)  # the second entry of the list
    folder[record + 38] = 0x10  # its attribute of a folder
    for altered in (folder, whole + whole):
        path.write_bytes(altered)
        with pytest.raises(CheckpointError, match=r"state\.pt cannot be read \(its list of records is altered\)"):
            checkpoints.load_state(path)


def test_a_full_disk_is_named_and_the_earlier_state_stays(tmp_path, monkeypatch):
    checkpoints.save_state(tmp_path / "state.pt", {"epoch": 1})

    def fail(state, temporary):
        temporary.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(checkpoints.torch, "save", fail)
    with pytest.raises(OutputError, match=r"state\.pt cannot be written \(.*file write failed\): check the free space"):
        checkpoints.save_state(tmp_path / "state.pt", {"epoch": 2})
    assert checkpoints.load_state(tmp_path / "state.pt") == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_missing_files_are_named(tmp_path):
    for load in (checkpoints.load_state, checkpoints.load_weights):
        with pytest.raises(CheckpointError, match=r"nothing\.pt does not exist"):
            load(tmp_path / "nothing.pt")


def test_weights_without_a_description_are_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match=r"bare\.safetensors has no description"):
        checkpoints.load_weights(tmp_path / "bare.safetensors")


PUBLISHED = {  # SHA-256 over name, type, shape and bytes of every tensor, sorted by name
    paths.IMAGE.weights: (ImageConfig, "6b0dcd10e65abb5b026d071e56ada38dc635ab6714232caaf8e125fa785405b8"),
    paths.IMAGE.unconditional: (ImageConfig, "50c3ff033847aefe90484d8d56880a0d5280649019e7ee86deedebcf7207d3ae"),
    paths.IMAGE.classifier: (ClassifierConfig, "43a759ba94b74b023dd0c8907dc701c1a78c162a0392efc7101187e683a7a0cc"),
    paths.AUDIO.weights: (AudioConfig, "e9c8bb9ba541e8ac9b11da1c3293ec3099495e96bc8ba4d29ff4c2ab38ff48f7"),
    paths.FLOW.weights: (FlowConfig, "214b8c80ab852aeb09276b846e96a883d0cb5cb657829d172b7b2fcc707efd9a"),
    paths.AUDIO.classifier: (StemClassifierConfig, "f171a52e41d2fdfdeff55620947f97ee28dc2246c474c81acf7f8fdfceac4237"),
}


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_published_models_hold_their_tensors_and_their_configuration(path):
    kind, expected = PUBLISHED[path]
    weights, description = checkpoints.load_weights(path)
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    assert digest.hexdigest() == expected
    from_json(kind, description["config"])
    assert json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) == description
