"""RESULTS.md and the model cards: templates filled with values of both halves; and the figures."""

from pathlib import Path
from string import Template

from src import paths
from src.files import load_json, save_text
from src.report import audio, flow, image, summary
from src.report.tables import break_words

FOLDER = Path(__file__).parent  # of the templates


def write(
    image_paths: paths.ImagePaths = paths.IMAGE,
    audio_paths: paths.AudioPaths = paths.AUDIO,
    page: Path = paths.RESULTS,
) -> list[Path]:
    """Write RESULTS.md, the model cards and the figures. Returns the paths of what was written.

    Raises:
        CheckpointError: a JSON file is missing or damaged; nothing is written.
        OutputError: a file cannot be written.
    """
    texts = render(image_paths, audio_paths, page)  # first, since it fails if a file is missing
    flow_paths = paths.FlowPaths(audio_paths.run, audio_paths.root)
    figures = image.write_figures(image_paths) + audio.write_figures(audio_paths) + flow.write_figures(flow_paths)
    for path, text in texts.items():
        save_text(path, text)
    return [*figures, *texts]


def render(
    image_paths: paths.ImagePaths = paths.IMAGE,
    audio_paths: paths.AudioPaths = paths.AUDIO,
    page: Path = paths.RESULTS,
) -> dict[Path, str]:
    """The text of each page. Raises CheckpointError if a JSON file is missing or damaged."""
    flow_paths = paths.FlowPaths(audio_paths.run, audio_paths.root)
    claims = load_json(paths.CLAIMS)
    values = {"claims_source": claims["source"]}
    values |= {f"claimed_{key}": value for key, value in claims["claimed"].items()}
    values |= {f"saved_{key}": value for key, value in claims["in_its_saved_files"].items()}
    values |= image.template_values(image_paths) | audio.template_values(audio_paths, claims)
    values |= flow.template_values(flow_paths)
    values |= summary.template_values(image_paths, audio_paths, flow_paths)
    values |= letter_machines({name: text for name, text in values.items() if name.endswith("_machine")})
    templates = {
        page: "results.md.template",
        image_paths.weights.parent / "README.md": "image_card.md.template",
        audio_paths.weights.parent / "README.md": "audio_card.md.template",
    }
    return {
        path: break_words(Template((FOLDER / name).read_text(encoding="utf-8")).substitute(values))
        for path, name in templates.items()
    }


def letter_machines(machines: dict[str, str]) -> dict[str, str]:
    """A letter for each different machine, in place of its description; `machines` lists the descriptions."""
    letters = {text: chr(ord("A") + index) for index, text in enumerate(dict.fromkeys(machines.values()))}
    listed = "\n".join(f"- {letter}: {text}" for text, letter in letters.items())
    return {name: letters[text] for name, text in machines.items()} | {"machines": listed}
