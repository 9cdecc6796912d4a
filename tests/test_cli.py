"""The command line: what it writes, and one clear line and a status for what it cannot do."""

import numpy as np
import pytest
from PIL import Image

from src import cli, paths
from src.audio import data


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = cli.main([*map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_generate_writes_an_array_and_says_so(capsys, tmp_path):
    output = tmp_path / "digits.npy"
    status, out, _ = run(capsys, "image", "generate", "--count", 5, "--seed", 3, "--output", output)
    assert status == 0
    assert "wrote 5 digits" in out
    digits = np.load(output)
    assert digits.shape == (5, 1, 28, 28)
    assert digits.dtype == np.uint8


def test_generate_writes_a_grid_and_single_files(capsys, tmp_path):
    assert run(capsys, "image", "generate", "--count", 6, "--columns", 3, "--output", tmp_path / "grid.png")[0] == 0
    assert Image.open(tmp_path / "grid.png").size == (2 * (3 * 29 + 1), 2 * (2 * 29 + 1))
    assert run(capsys, "image", "generate", "--count", 3, "--output", tmp_path / "folder")[0] == 0
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["00000.png", "00001.png", "00002.png"]


def test_interpolate_writes_one_row(capsys, tmp_path):
    status, _, _ = run(capsys, "image", "interpolate", "--steps", 4, "--output", tmp_path / "row.png")
    assert status == 0
    assert Image.open(tmp_path / "row.png").size == (2 * (4 * 29 + 1), 2 * 30)


@pytest.fixture
def stereo(tmp_path):
    """A second of two tones at 44.1 kHz."""
    path = tmp_path / "stereo.wav"
    times = np.arange(44_100) / 44_100
    data.write_audio(path, np.stack([np.sin(times * 2 * np.pi * hertz) * 0.3 for hertz in (220, 330)]), 44_100)
    return path


def test_reconstruct_refuses_what_it_could_not_write_before_it_begins(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(cli.audio_generate, "load_model", lambda path: pytest.fail("began"))
    data.write_audio(tmp_path / "fine.wav", np.zeros((1, 1000), np.float32), 96_000)
    status, _, error = run(capsys, "audio", "reconstruct", tmp_path / "fine.wav", tmp_path / "again.mp3")
    assert status == 1 and "MP3 cannot hold 1 channels at 96000 Hz: write WAV" in error


def test_reconstruct_keeps_length_rate_and_channels(capsys, tmp_path, stereo):
    output = tmp_path / "again.flac"
    status, out, _ = run(capsys, "audio", "reconstruct", stereo, output, "--stem", "bass", "--distortion", "-20")
    assert status == 0
    assert "1.0 s, 2 channels, coded as bass at" in out
    original, (again, rate) = data.read_audio(stereo)[0], data.read_audio(output)
    assert again.shape == original.shape and rate == 44_100
    assert 10 * np.log10(np.square(original).sum() / np.square(original - again).sum()) > 12


def test_generate_and_interpolate_write_sound(capsys, tmp_path, stereo):
    assert run(capsys, "audio", "generate", "--stem", "drums", "--seconds", 2, "--output", tmp_path / "a.wav")[0] == 0
    assert data.read_audio(tmp_path / "a.wav")[0].shape == (1, 2 * 22050)
    status, out, _ = run(
        capsys, "audio", "interpolate", tmp_path / "a.wav", stereo, "--steps", 3, "--output", tmp_path / "b.wav"
    )
    assert status == 0 and "wrote 3 steps of 1.0 s" in out
    assert data.read_audio(tmp_path / "b.wav")[0].shape == (1, 3 * 22050)


def test_nothing_is_overwritten_unasked(capsys, tmp_path):
    output = tmp_path / "digits.npy"
    output.write_text("mine")
    status, _, err = run(capsys, "image", "generate", "--count", 1, "--output", output)
    assert status == 1
    assert "exists: add --overwrite" in err
    assert output.read_text() == "mine"
    assert run(capsys, "image", "generate", "--count", 1, "--output", output, "--overwrite")[0] == 0
    assert np.load(output).shape == (1, 1, 28, 28)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("image", "generate", "--count", "0"), "count is 0: it must be at least 1"),
        (("image", "generate", "--seed", "-1"), "seed is -1"),
        (("image", "generate", "--output", "digits.jpg"), "cannot write digits.jpg: end it in .png"),
        (("image", "interpolate", "--steps", "1"), "steps is 1"),
        (("image", "generate", "--model", "nowhere.pt"), "nowhere.pt does not exist"),
        (("image", "generate", "--model", "README.md"), "README.json does not exist"),
        (("image", "evaluate", "--run", "nowhere"), "image_training.jsonl tells of no epoch: train this run first"),
        (("image", "train", "--run", "new", "--epochs", "0"), "epochs is 0"),
        (("image", "train", "--run", "../elsewhere"), "'../elsewhere' cannot name a run"),
        (("audio", "evaluate", "--run", "nowhere"), "audio_training.jsonl tells of no epoch: train this run first"),
        (("audio", "reconstruct", "nowhere.wav", "again.wav"), "nowhere.wav cannot be decoded (No such file"),
        (("audio", "reconstruct", "README.md", "again.wav"), "README.md cannot be decoded"),
        (("audio", "reconstruct", "a.wav", "again.mid"), "cannot write again.mid: end it in .wav, .flac, .ogg, .mp3"),
        (("audio", "generate", "--stem", "drums", "--seconds", "1e9", "--output", "a.wav"), "up to 600 s"),
        (("audio", "interpolate", "a.wav", "b.wav", "--output", "c.wav"), "a.wav cannot be decoded"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_1(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("no weights")
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (1, "")
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize(
    ("arguments", "target"),
    [(("bench",), "benchmark"), (("image", "ablate"), "ablation"), (("image", "train-classifier"), "classifier")],
)
def test_recorded_files_are_not_replaced_unasked(capsys, monkeypatch, tmp_path, arguments, target):
    where = paths.ImagePaths("full", tmp_path)
    getattr(where, target).parent.mkdir()
    getattr(where, target).write_text("recorded")
    monkeypatch.setattr(paths, "IMAGE", where)
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (1, "")
    assert err.endswith("exists: add --overwrite to replace it\n")
    assert getattr(where, target).read_text() == "recorded"


def test_published_weights_are_not_trained_over(tmp_path):
    where = paths.ImagePaths("full", tmp_path)
    where.checkpoints.mkdir()
    where.weights.write_bytes(b"published")
    with pytest.raises(cli.UsageError, match=r"generator\.safetensors is there.*--run NAME.*--overwrite"):
        cli.prepare_run(where, overwrite=False)
    cli.prepare_run(where, overwrite=True)
    assert where.weights.is_file()  # until the new run has a better one


@pytest.mark.parametrize(
    "command",
    ["", "data", "image train", "image train-classifier", "image evaluate", "image generate", "image interpolate",
     "image ablate", "audio train", "audio train-classifier", "audio evaluate", "audio reconstruct", "audio generate",
     "audio interpolate", "results", "verify", "bench"],
)  # fmt: skip
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command.split(), "--help"])
    assert stopped.value.code == 0
    assert "usage: python -m src" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [(), ("image",), ("draw",), ("image", "generate", "--count", "many"), ("bench", "--minutes", "0")]
)
def test_wrong_use_ends_with_status_2(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err
