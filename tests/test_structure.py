"""The rules of the package: what may import what, and what a fresh clone holds."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from src import paths

SOURCE = paths.ROOT / "src"
# From the bottom up: a module may import from lower levels and from its own level, where no cycle is allowed.
LEVELS = (
    ("errors", "config", "paths", "files", "metric_tables", "figures"),
    ("runtime", "downloads", "distributed", "checkpoints", "metrics", "classifiers", "training_loop", "report"),
    ("image", "audio"),
    ("commands", "notebook"),
    ("cli",),
    ("__main__",),
)
HALVES = {  # within a half, from the bottom up; the same rule
    "image": (
        ("data", "inception"),
        ("dcgan", "classifier", "losses"),
        ("training", "generate"),
        ("evaluation",),
        ("benchmark",),
    ),
    "audio": (
        ("sound_files", "spectrogram", "spool", "summaries"),
        ("data", "metrics", "display", "water_filling"),
        ("vae", "classifier", "flow"),
        ("losses",),
        ("training", "flow_training", "reconstruct"),
        ("generate",),
        ("evaluation", "flow_evaluation", "benchmark"),
    ),
}
WITHOUT_TORCH = ("cli", "commands.image", "commands.audio", "commands.data", "commands.results", "commands.verify",
                 "report.results", "downloads", "files", "paths", "config", "metric_tables", "errors")  # fmt: skip
FOLDERS = ("data", "image_checkpoints", "audio_checkpoints", "generated_images", "generated_audio",
           "reconstructed_audio", "spectrograms", "metrics", "audio_results", "final_audio_model")  # fmt: skip


def imports(path: Path) -> set[str]:
    """Full names of the modules of `src` that a file imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.startswith("src.") and is_module(name)}


def is_module(name: str) -> bool:
    path = paths.ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def modules() -> dict[str, Path]:
    found = (path for path in SOURCE.rglob("*.py") if path.name not in ("__init__.py", "bootstrap.py"))
    return {".".join(path.relative_to(paths.ROOT).with_suffix("").parts): path for path in found}


def level_of(name: str, levels: tuple[tuple[str, ...], ...]) -> int:
    return next(number for number, names in enumerate(levels) if name in names)


def test_imports_go_down():
    for module, path in modules().items():
        own = level_of(module.split(".")[1], LEVELS)
        for imported in imports(path):
            assert level_of(imported.split(".")[1], LEVELS) <= own, f"{module} imports {imported}"


def test_imports_within_a_half_go_down_and_neither_imports_the_other():
    for module, path in modules().items():
        _, room, *rest = module.split(".")
        if room in HALVES:
            for imported in imports(path):
                _, other, *name = imported.split(".")
                assert other not in HALVES or other == room, f"{module} imports {imported}"
                assert other != "report", f"{module} imports {imported}"
                if other == room and name:
                    assert level_of(name[0], HALVES[room]) <= level_of(rest[0], HALVES[room]), f"{module}, {imported}"


def test_no_cycle():
    graph = {module: imports(path) & modules().keys() for module, path in modules().items()}
    while graph:
        free = {module for module, others in graph.items() if not others & graph.keys()}
        assert free, f"a cycle among {sorted(graph)}"
        graph = {module: others for module, others in graph.items() if module not in free}


def test_the_report_reads_files_alone():
    allowed = {f"src.{name}" for name in LEVELS[0]}
    for path in (SOURCE / "report").glob("*.py"):
        assert {name for name in imports(path) if not name.startswith("src.report")} <= allowed, path.name


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_modules_that_must_start_at_once_import_no_torch(module):
    code = f"import sys, src.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run((sys.executable, "-c", code), cwd=paths.ROOT).returncode == 0


def test_the_package_itself_imports_nothing():
    assert ast.parse((SOURCE / "__init__.py").read_text()).body[1:] == []


def functions() -> list[tuple[str, ast.FunctionDef]]:
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.append((f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}", node))
    return found


def test_functions_are_short():
    for name, node in functions():
        if isinstance(node, ast.FunctionDef):
            docstring = node.body[0] if ast.get_docstring(node) else None
            lines = node.end_lineno - node.lineno + 1
            lines -= docstring.end_lineno - docstring.lineno + 1 if docstring else 0
            assert lines <= (60 if "parser" in node.name else 40), f"{name} has {lines} lines"


def test_everything_public_has_a_docstring():
    found = functions()
    nested = {
        id(inner)
        for _, node in found
        if isinstance(node, ast.FunctionDef)
        for inner in ast.walk(node)
        if inner is not node
    }
    for name, node in found:
        if id(node) not in nested and not node.name.startswith("_"):
            assert ast.get_docstring(node), name


@pytest.mark.parametrize("folder", sorted(set(FOLDERS) - {"image_checkpoints", "final_audio_model"}))  # model cards
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
