"""The image commands: what they write, and one clear line for what they refuse."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from src import checkpoints, cli, config, paths
from src.commands import options
from src.config import ClassifierConfig, EvaluationConfig, ImageConfig
from src.errors import UsageError
from src.image import data, dcgan, evaluation, generate
from src.image.data import Digits


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


def test_generate_writes_a_number(capsys, tmp_path):
    output = tmp_path / "2026.npy"
    status, out, _ = run(capsys, "image", "generate", "--digits", "0026", "--seed", 3, "--output", output)
    assert status == 0 and "wrote 1 x 0026 to" in out
    model = dcgan.load_model()
    assert np.array_equal(np.load(output), generate.write_number(model, "0026", 1, 3).numpy())
    folder = tmp_path / "rows"
    assert run(capsys, "image", "generate", "--digits", "10", "--count", 3, "--output", folder)[0] == 0
    assert [Image.open(path).size for path in sorted(folder.iterdir())] == [(56, 28)] * 3


def test_the_picture_of_the_readme_is_what_its_command_draws(capsys, tmp_path):
    readme = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    command = re.search(r"`python -m src (image generate --digits 2026 [^`]*)`", readme)[1].split()
    assert run(capsys, *command, "--output", tmp_path / "2026.png")[0] == 0
    drawn, committed = (
        np.asarray(Image.open(folder / "2026.png")).astype(int) for folder in (tmp_path, paths.IMAGE.samples)
    )
    assert np.abs(drawn - committed).max() <= 1  # another processor may round a pixel differently


def test_generate_repeats_one_digit_in_a_grid(capsys, tmp_path):
    assert run(capsys, "image", "generate", "--digits", "7", "--output", tmp_path / "7.png")[0] == 0
    assert Image.open(tmp_path / "7.png").size == (2 * (8 * 29 + 1), 2 * (8 * 29 + 1))
    output = tmp_path / "7.npy"
    assert run(capsys, "image", "generate", "--digits", "7", "--count", 2, "--output", output)[0] == 0
    assert np.array_equal(np.load(output), generate.sample(dcgan.load_model(), 2, 0, 7).numpy())


def test_the_unconditional_generator_draws_but_takes_no_digit(capsys, tmp_path):
    model = ("--model", paths.IMAGE.unconditional, "--output", tmp_path / "new.npy")
    for arguments in (("generate", "--digits", "2026"), ("interpolate", "--from-digit", 3, "--to-digit", 8)):
        status, out, err = run(capsys, "image", *arguments, *model)
        assert (status, out) == (1, "") and not (tmp_path / "new.npy").exists()
        assert err == "error: this generator is unconditional and cannot be asked for a digit: leave the digits out\n"
    assert run(capsys, "image", "generate", "--count", 2, *model)[0] == 0


def test_interpolate_keeps_the_latent_or_the_digit(capsys, tmp_path):
    model = dcgan.load_model()
    asked = {
        ("--from-digit", 3, "--to-digit", 8): (0, 0, 3, 8),
        ("--from-digit", 3, "--to-digit", 8, "--start", 5): (5, 5, 3, 8),
        ("--start", 2, "--end", 3): (2, 3, None, None),
        ("--from-digit", 4): (0, 1, 4, None),
    }
    for number, (arguments, (start, end, before, after)) in enumerate(asked.items()):
        output = tmp_path / f"{number}.npy"
        assert run(capsys, "image", "interpolate", "--steps", 3, *arguments, "--output", output)[0] == 0
        assert np.array_equal(np.load(output), generate.interpolate(model, start, end, 3, before, after).numpy())


def test_interpolate_writes_one_row(capsys, tmp_path):
    status, _, _ = run(capsys, "image", "interpolate", "--steps", 4, "--output", tmp_path / "row.png")
    assert status == 0
    assert Image.open(tmp_path / "row.png").size == (2 * (4 * 29 + 1), 2 * 30)


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
        (("generate", "--count", "0", "--output", "new.png"), "count is 0: it must be at least 1"),
        (("generate", "--seed", "-1", "--output", "new.png"), "seed is -1"),
        (("generate", "--digits", "20a6", "--output", "new.png"), "digits are '20a6': ask for 1 to 32 of the char"),
        (("generate", "--digits", "", "--output", "new.png"), "the value of --digits is empty: leave it out"),
        (("generate", "--output", "README", "--overwrite"), "cannot write a folder of pictures to README: it is a"),
        (("generate", "--output", ""), "the value of --output is empty"),
        (("evaluate", "--model=", "--overwrite"), "the value of --model is empty"),
        (("generate", "--digits", "1" * 33, "--output", "new.png"), "ask for 1 to 32 of the characters 0 to 9"),
        (("generate", "--digits", "12", "--count", "0", "--output", "new.png"), "count is 0: it must be at least 1"),
        (("generate", "--digits", "12", "--columns", "3", "--output", "new.png"), "leave out --columns"),
        (("interpolate", "--from-digit", "12", "--output", "new.png"), "digit is 12: it must lie between 0 and 9"),
        (("interpolate", "--to-digit", "-1", "--output", "new.png"), "digit is -1: it must lie between 0 and 9"),
        (("generate", "--output", "digits.jpg"), "cannot write digits.jpg: end it in .png"),
        (("generate", "--output", "README.md/new.png"), "README.md/new.png cannot be written: "),
        (("interpolate", "--steps", "1", "--output", "new.png"), "steps is 1"),
        (("generate", "--model", "nowhere.pt", "--output", "new.png"), "nowhere.pt does not exist"),
        (
            ("generate", "--model", "README.md", "--output", "new.png"),
            "README.md is damaged, or no safetensors file",
        ),
        (("evaluate", "--run", "nowhere"), "image_training.jsonl holds no epoch: train this run first"),
        (("evaluate", "--profile", "quick", "--overwrite"), "name another --run"),
        (("train", "--run", "new", "--epochs", "0"), "epochs is 0"),
        (("train", "--run", "../elsewhere"), "'../elsewhere' cannot name a run"),
        (("generate", "--model", "n" * 300, "--output", "new.png"), "cannot be read (File name too long)"),
        (("generate", "--output", "n" * 300 + ".png"), "cannot be written (File name too long)"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_1(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name in ("README", "README.md"):
        (tmp_path / name).write_text("no weights")
    status, out, err = run(capsys, "image", *arguments)
    assert (status, out) == (1, "")
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README", "README.md"]


@pytest.mark.parametrize(
    ("command", "target"),
    [("bench", "benchmark"), ("ablate", "ablation"), ("train-classifier", "classifier"), ("evaluate", "metrics")],
)
def test_recorded_files_are_not_replaced_unasked(capsys, monkeypatch, tmp_path, command, target):
    run_paths = paths.ImagePaths("full", tmp_path)
    getattr(run_paths, target).parent.mkdir()
    getattr(run_paths, target).write_text("recorded")
    monkeypatch.setattr(paths, "IMAGE", run_paths)
    monkeypatch.setattr(paths, "ImagePaths", lambda run: run_paths)
    status, out, err = run(capsys, "image", command)
    assert (status, out) == (1, "")
    assert err.endswith("exists: add --overwrite to replace it\n")
    assert getattr(run_paths, target).read_text() == "recorded"


def test_published_weights_are_not_trained_over(tmp_path):
    run_paths = paths.ImagePaths("full", tmp_path)
    run_paths.checkpoints.mkdir()
    run_paths.weights.write_bytes(b"published")

    class Arguments:
        run, overwrite = None, False

    with pytest.raises(UsageError, match=r"generator\.safetensors exists.*--run NAME.*--overwrite"):
        options.prepare_run(run_paths, Arguments, complete=True)
    Arguments.overwrite = True
    assert options.prepare_run(run_paths, Arguments, complete=True) == run_paths
    assert run_paths.weights.is_file()  # until the new run has a better one


@pytest.fixture
def small(monkeypatch, tmp_path) -> paths.ImagePaths:
    """A repository in a temporary folder, 64 images of noise in each split, and a small profile."""
    digits = Digits(torch.randint(0, 256, (64, 1, 28, 28), dtype=torch.uint8), torch.arange(64) % 10, "MNIST")
    for module in (data, evaluation):
        monkeypatch.setattr(module, "load_mnist", lambda split: digits)
    image_paths = paths.ImagePaths
    monkeypatch.setattr(paths, "ImagePaths", lambda run: image_paths(run, tmp_path))
    monkeypatch.setattr(paths, "IMAGE", image_paths("full", tmp_path))
    profile = (
        ImageConfig(
            latent_dim=8, generator_width=4, discriminator_width=4, epochs=2, batch_size=16, checkpoint_every=1
        ),
        EvaluationConfig(count=40, seeds=(1, 2), splits=2, kid_subsets=2, kid_subset_size=20),
    )
    monkeypatch.setitem(config.IMAGE_PROFILES, "quick", profile)
    monkeypatch.setattr(config, "_lengthen", lambda settings, ratio: settings)
    return image_paths("mine", tmp_path)


def test_train_then_evaluate_then_generate(capsys, small, tmp_path):
    status, out, _ = run(capsys, "image", "train", "--profile", "quick", "--run", "mine", "--seed", 5)
    assert status == 0
    assert "epoch 2: fid_mnist" in out and "2 epochs, 8 steps" in out
    assert small.weights.is_file() and small.grid(1).is_file() and checkpoints.state_path(small, 2).is_file()
    status, out, _ = run(capsys, "image", "train", "--profile", "quick", "--run", "mine", "--seed", 5)
    assert status == 0 and "going on from" in out
    status, out, _ = run(capsys, "image", "evaluate", "--profile", "quick", "--run", "mine")
    assert status == 0 and "(real digits:" in out and "inception: not measured" in out
    assert small.metrics.is_file()
    status, out, _ = run(capsys, "image", "evaluate", "--profile", "quick", "--model", checkpoints.state_path(small, 1))
    assert status == 0 and "fid_mnist" in out and "wrote" not in out
    status, *_ = run(capsys, "image", "generate", "--model", small.weights, "--output", tmp_path / "digits.png")
    assert status == 0
    assert dcgan.load_model(small.weights).latent_dim == 8


def test_the_classifier_is_trained_measured_and_published(capsys, small, monkeypatch):
    from src.commands import image

    tiny = replace(ClassifierConfig(), width=2, epochs=1)
    monkeypatch.setattr(image, "ClassifierConfig", lambda: tiny)
    status, out, _ = run(capsys, "image", "train-classifier")
    assert status == 0 and "% validation" in out and "% test" in out
    assert paths.IMAGE.classifier.is_file()


def test_a_folder_may_have_a_dot_in_its_name(capsys, tmp_path):
    output = f"{tmp_path / 'digits.v2'}/"
    (tmp_path / "digits.v2").mkdir()  # an empty folder may be used
    assert run(capsys, "image", "generate", "--count", "2", "--output", output)[0] == 0
    assert sorted(path.name for path in (tmp_path / "digits.v2").iterdir()) == ["00000.png", "00001.png"]
    status, _, error = run(capsys, "image", "generate", "--count", "1", "--output", output)
    assert status == 1 and "digits.v2 exists: add --overwrite" in error
    assert run(capsys, "image", "generate", "--count", "1", "--output", output, "--overwrite")[0] == 0
    assert [path.name for path in (tmp_path / "digits.v2").iterdir()] == ["00000.png"]
