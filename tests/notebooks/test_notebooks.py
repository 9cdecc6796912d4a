"""Both what is committed of the notebooks, and that they run from top to bottom."""

import os
import re
import shutil

import nbformat
import pytest
from nbclient import NotebookClient

from src import bootstrap, paths
from src.audio import data as audio_data
from src.image import data

DATA = {
    "01_img_generation.ipynb": "MNIST: 50,000 to train",
    "02_audio_regeneration.ipynb": "MUSDB18-7s: 80 tracks to train",
}
WRITTEN = {
    "01_img_generation.ipynb": ("image_checkpoints", "metrics", "image_metrics.json"),
    "02_audio_regeneration.ipynb": ("audio_checkpoints", "audio_results", "audio_metrics.json"),
}


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
    assert DATA[name] in text
    assert str(paths.ROOT) not in text


@pytest.mark.parametrize("name", bootstrap.NOTEBOOKS)
def test_the_notebooks_show_png_pictures_and_absolute_links_and_stay_small(name):
    notebook = nbformat.read(paths.ROOT / name, as_version=4)
    kinds = {kind for cell in notebook.cells for output in cell.get("outputs", ()) for kind in output.get("data", ())}
    assert "image/png" in kinds and "image/jpeg" not in kinds
    # Jupyter puts white behind a picture that asks for a light background, in dark mode too.
    assert not [output for cell in notebook.cells for output in cell.get("outputs", ()) if output.get("metadata")]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":  # a relative link leads nowhere in Colab
            assert not re.search(r"\]\((?!https://|#)", cell.source), cell.source
    assert (paths.ROOT / name).stat().st_size <= 3_500_000  # GitHub refuses to show much larger ones


@pytest.mark.slow
@pytest.mark.parametrize("name", bootstrap.NOTEBOOKS)
def test_notebook_trains_and_tells_its_story_in_the_quick_profile(name, tmp_path, monkeypatch):
    clone = tmp_path / "clone"
    ignored = shutil.ignore_patterns(".git", ".venv", "data", "quick*", "*.pt", "__pycache__", ".*_cache", "*.tmp")
    shutil.copytree(paths.ROOT, clone, ignore=ignored)
    complete = have_data(name)
    (clone / "data").mkdir()
    if complete:
        for folder in (paths.MNIST.parent, paths.MUSDB18, paths.MUSDB18_CACHE):
            if folder.exists():
                (clone / "data" / folder.name).symlink_to(folder.resolve())
    monkeypatch.setenv("PROFILE", "quick")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(clone), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(clone / name, as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(clone)}}).execute()
    run = "quick" if complete else "quick-sample"
    states, results, scores = WRITTEN[name]
    assert len(list((clone / states / run).glob("epoch_*.pt"))) == 2
    assert (clone / results / run / scores).is_file()


def have_data(name: str) -> bool:
    if name.startswith("01"):
        return data.load_mnist("test").complete
    return audio_data.load_musdb18("test", 22050).complete
