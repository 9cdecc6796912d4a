"""The root of the command line: help, wrong use, and which errors become one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from src import cli, paths
from src.commands import data
from src.errors import DataError

COMMANDS = [
    "", "data", "image", "image train", "image train-classifier", "image evaluate", "image generate",
    "image interpolate", "image bench", "image ablate", "audio", "audio train", "audio train-classifier",
    "audio evaluate", "audio reconstruct", "audio generate", "audio interpolate", "audio bench", "results", "verify",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command.split(), "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {' '.join(['python -m src', *command.split()])} [-h]")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "required: COMMAND"),
        (("draw",), "invalid choice: 'draw'"),
        (("image",), "required: COMMAND"),
        (("image", "generate", "--count", "many"), "invalid int value: 'many'"),
        (("image", "bench", "--minutes", "0"), "0 is not above 0"),
        (("image", "bench", "--minutes", "nan"), "nan is not above 0, or not finite"),
        (("audio", "generate", "--stem", "drums", "--seconds", "long"), "'long' is not a number"),
        (("audio", "reconstruct", "in.wav"), "required: OUT"),
    ],
)
def test_wrong_use_ends_with_status_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "usage:" in error and message in error


def test_an_error_for_the_user_is_one_line_and_a_bug_keeps_its_traceback(capsys, monkeypatch):
    def fail(error: Exception):
        def handler(_):
            raise error

        return handler

    monkeypatch.setattr(data, "find_data", fail(DataError("file.gz is damaged: delete it")))
    assert cli.main(["data"]) == 1
    assert capsys.readouterr().err == "error: file.gz is damaged: delete it\n"
    monkeypatch.setattr(data, "find_data", fail(KeyboardInterrupt()))
    assert cli.main(["data"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    for bug in (ValueError("bug"), OSError("bug"), KeyError("bug"), RuntimeError("bug")):
        monkeypatch.setattr(data, "find_data", fail(bug))
        with pytest.raises(type(bug)):
            cli.main(["data"])


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (("image", "generate", "--model", ""), "the value of --model"),
        (("image", "generate", "--model="), "the value of --model"),
        (("audio", "reconstruct", "", "out.wav"), "an argument"),
        (("audio", "generate", "--like", "", "--output=b=.wav"), "the value of --like"),
    ],
)
def test_an_empty_argument_is_refused(capsys, arguments, place):
    assert cli.main(list(arguments)) == 1
    assert capsys.readouterr().err.startswith(f"error: {place} is empty: ")


def test_a_name_may_end_in_an_equals_sign(capsys, tmp_path):
    assert cli.main(["image", "generate", "--count", "1", f"--output={tmp_path}/digits="]) == 0
    assert [path.name for path in (tmp_path / "digits=").iterdir()] == ["00000.png"]


def test_a_reader_that_ends_early_leaves_no_traceback():
    command = f"{sys.executable} -m src image generate --help | head -1"
    finished = subprocess.run(command, shell=True, cwd=paths.ROOT, capture_output=True, text=True)
    assert finished.stderr == ""


def test_a_closed_output_ends_with_status_1_and_no_traceback(tmp_path):
    read_end, write_end = os.pipe()
    os.close(read_end)
    finished = subprocess.run(
        (sys.executable, "-m", "src", "image", "generate", "--count", "1", "--output", str(tmp_path / "digit.png")),
        cwd=paths.ROOT, stdout=write_end, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(write_end)
    assert (finished.returncode, finished.stderr) == (1, "")
    assert (tmp_path / "digit.png").is_file()


def test_a_console_without_the_characters_of_a_name_still_finishes(tmp_path):
    output = tmp_path / "dígitos.png"
    finished = subprocess.run(
        (sys.executable, "-m", "src", "image", "generate", "--count", "1", "--output", str(output)),
        cwd=paths.ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert finished.returncode == 0 and output.is_file()
    assert "d\\xedgitos.png" in finished.stdout


SCRIPT = """
import sys
from src.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("heavy:", sorted({"torch", "matplotlib", "librosa", "av", "soundfile", "torchvision"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("image", "generate", "--help"),
        ("audio", "reconstruct", "--help"),
        ("image", "generate", "--count", "many"),
        ("image", "generate", "--output", "README.md"),
        ("audio", "reconstruct", "in.wav", "README.md"),
        ("image", "evaluate"),
        ("audio", "evaluate"),
        ("image", "train-classifier"),
    ],
)
def test_help_wrong_arguments_and_an_existing_output_are_answered_without_heavy_imports(arguments):
    finished = subprocess.run(
        (sys.executable, "-c", SCRIPT, *arguments), cwd=paths.ROOT, capture_output=True, text=True, check=True
    )
    assert finished.stdout.splitlines()[-1] == "heavy: []"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_the_output_is_one_line(tmp_path):
    command = (sys.executable, "-m", "src", "image", "generate", "--count", "1", "--output", str(tmp_path / "a.png"))
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=paths.ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["error: the standard output cannot be written (No space left on device)"]


def test_a_link_that_leads_to_itself_is_one_line(capsys, tmp_path):
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert cli.main(["image", "generate", "--count", "1", "--output", str(tmp_path / "loop.png")]) == 1
    assert "loop.png cannot be written" in capsys.readouterr().err
