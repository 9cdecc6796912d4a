"""The environment: an existing one is kept, whatever it lacks."""

import subprocess
import venv

import pytest

from src import bootstrap


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An empty repository without requirements."""
    (tmp_path / "requirements.txt").write_text("")
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "ENVIRONMENT", tmp_path / ".venv")
    return tmp_path / ".venv"


def test_an_environment_without_pip_gets_pip_and_keeps_its_files(environment):
    venv.create(environment, with_pip=False)
    (environment / "mine.txt").write_text("mine")
    python = bootstrap.prepare_environment(("requirements.txt",))
    assert (environment / "mine.txt").read_text() == "mine"
    assert subprocess.run((python, "-m", "pip", "--version"), capture_output=True).returncode == 0


def test_a_folder_of_something_else_is_left_alone(environment):
    environment.mkdir()
    (environment / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match=r"\.venv is no virtual environment of this system: move it elsewhere"):
        bootstrap.prepare_environment(("requirements.txt",))
    assert [path.name for path in environment.iterdir()] == ["mine.txt"]


def test_wrong_use_is_one_line(capsys):
    assert bootstrap.main([]) == bootstrap.main(["everything"]) == 2
    assert capsys.readouterr().err.count("usage: python -m src.bootstrap notebooks|tests") == 2


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 14, 0)])
def test_another_python_gets_one_line_with_the_remedy(capsys, monkeypatch, version):
    monkeypatch.setattr(bootstrap.sys, "version_info", version)
    monkeypatch.setattr(bootstrap.sys, "version", ".".join(map(str, version)) + " (main)")
    monkeypatch.setattr(bootstrap, "prepare_environment", lambda requirements: pytest.fail("began"))
    assert bootstrap.main(["tests"]) == 1
    assert capsys.readouterr().err == (
        f"error: Python {'.'.join(map(str, version))} is not supported: use Python 3.11 to 3.13, for example "
        "python3.13 -m src.bootstrap tests\n"
    )
