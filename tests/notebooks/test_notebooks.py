"""Both what is committed of the notebooks, and that they run from top to bottom."""

import os
import shutil

import nbformat
import pytest
from nbclient import NotebookClient

from src import bootstrap, paths
from src.image import data


@pytest.mark.parametrize("name", bootstrap.NOTEBOOKS)
def test_committed_notebook_holds_the_outputs_of_a_whole_run(name):
    notebook = nbformat.read(paths.ROOT / name, as_version=4)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata  # GitHub would refuse to show it
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    text = "".join(output.get("text", "") for output in outputs)
    assert "MNIST: 50,000 to train" in text
    assert str(paths.ROOT) not in text


@pytest.mark.parametrize("name", bootstrap.NOTEBOOKS)
def test_notebook_trains_and_tells_its_story_in_the_quick_profile(name, tmp_path, monkeypatch):
    clone = tmp_path / "clone"
    ignored = shutil.ignore_patterns(".git", ".venv", "data", "quick*", "*.pt", "__pycache__", ".*_cache", "*.tmp")
    shutil.copytree(paths.ROOT, clone, ignore=ignored)
    complete = data.load_mnist("test").complete
    if complete:
        (clone / "data" / "MNIST").mkdir(parents=True)
        shutil.copytree(paths.MNIST, clone / "data" / "MNIST" / "raw")
    monkeypatch.setenv("PROFILE", "quick")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(clone), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(clone / name, as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(clone)}}).execute()
    run = "quick" if complete else "quick-sample"
    assert len(list((clone / "image_checkpoints" / run).glob("epoch_*.pt"))) == 2
    assert (clone / "metrics" / run / "image_metrics.json").is_file()
