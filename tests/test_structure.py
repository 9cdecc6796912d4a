"""The rules of the house: what may import what, and what a fresh clone holds."""

import ast

import pytest

from src import paths

SHARED = ("config", "paths", "runtime", "checkpoints", "classification", "results")
FOLDERS = (
    "data",
    "image_checkpoints",
    "audio_checkpoints",
    "generated_images",
    "generated_audio",
    "reconstructed_audio",
    "spectrograms",
    "metrics",
    "audio_results",
    "final_audio_model",
)


def imports(path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("src")}


@pytest.mark.parametrize("room", SHARED)
def test_shared_rooms_import_no_wing(room):
    found = imports(paths.ROOT / "src" / f"{room}.py")
    assert not {name for name in found if name.startswith(("src.image", "src.audio", "src.cli"))}


def test_wings_do_not_import_each_other_or_the_command_line():
    for wing, other in (("image", "audio"), ("audio", "image")):
        for path in (paths.ROOT / "src" / wing).glob("*.py"):
            assert not {name for name in imports(path) if name.startswith((f"src.{other}", "src.cli", "src.results"))}


def test_the_package_itself_imports_nothing():
    assert ast.parse((paths.ROOT / "src" / "__init__.py").read_text()).body[1:] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_says_in_one_line_what_lands_there(folder):
    assert len((paths.ROOT / folder / "README.md").read_text(encoding="utf-8").splitlines()) == 1


def test_other_runs_never_touch_the_published_one():
    common = ("weights", "metrics", "training_log", "figures", "checkpoints")
    for kind, names in (
        (paths.ImagePaths, ("benchmark", "samples")),
        (paths.AudioPaths, ("reconstructions", "generated", "spectrograms", "results")),
    ):
        published, other = kind(), kind("quick")
        for name in (*common, *names):
            assert getattr(published, name) != getattr(other, name)
        assert published.classifier == other.classifier
