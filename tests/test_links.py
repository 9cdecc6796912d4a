"""Every relative link and picture of the Markdown files and notebooks leads to a committed file."""

import json
import re

import pytest

from src import paths

PAGES = (*paths.ROOT.glob("*.md"), *paths.ROOT.glob("*/README.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")


def links(text: str) -> list[str]:
    """The targets of Markdown links and of pictures in HTML."""
    return [markdown or picture for markdown, picture in LINK.findall(text)]


def headings(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a Markdown text."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", sorted(PAGES), ids=paths.relative)
def test_relative_links_lead_to_a_file_and_a_heading(page):
    for link in links(page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", link):
            target, _, anchor = link.partition("#")
            found = page.parent / target if target else page
            assert found.exists(), f"{paths.relative(page)} links to {link}"
            assert not anchor or anchor in headings(found.read_text(encoding="utf-8")), (
                f"{paths.relative(page)} links to {link}"
            )


@pytest.mark.parametrize("path", sorted(paths.ROOT.glob("*.ipynb")), ids=paths.relative)
def test_links_of_notebooks_are_absolute_since_colab_holds_no_other_file(path):
    name, notebook = path.name, json.loads(path.read_text(encoding="utf-8"))
    texts = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    anchors = {title.replace(" ", "-") for text in texts for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    for link in (link for text in texts for link in links(text)):
        if link.startswith("#"):
            assert link[1:] in anchors, f"{name} links to {link}"
        else:
            assert link.startswith("https://"), f"{name} links to {link}"
            if inside := re.match(r"https://github\.com/PabloUnB/desafio_ia/(?:blob|tree)/main/([^#]*)", link):
                assert (paths.ROOT / inside[1]).exists(), f"{name} links to {link}"
