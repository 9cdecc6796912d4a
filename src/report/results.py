"""RESULTS.md: the template filled with values of both halves, and the figures that it shows."""

from pathlib import Path
from string import Template

from src import paths
from src.files import save_text
from src.report import audio, flow, image

TEMPLATE = Path(__file__).with_name("results.md.template")


def write(
    image_paths: paths.ImagePaths = paths.IMAGE,
    audio_paths: paths.AudioPaths = paths.AUDIO,
    page: Path = paths.RESULTS,
) -> list[Path]:
    """Write RESULTS.md and its figures. Returns the paths of what was written.

    Raises:
        CheckpointError: a JSON file is missing or damaged; nothing is written.
        OutputError: a file cannot be written.
    """
    text = render(image_paths, audio_paths)  # first, since it fails if a file is missing
    flow_paths = paths.FlowPaths(audio_paths.run, audio_paths.root)
    figures = image.write_figures(image_paths) + audio.write_figures(audio_paths) + flow.write_figures(flow_paths)
    save_text(page, text)
    return [*figures, page]


def render(image_paths: paths.ImagePaths = paths.IMAGE, audio_paths: paths.AudioPaths = paths.AUDIO) -> str:
    """The text of RESULTS.md. Raises CheckpointError if a JSON file is missing or damaged."""
    flow_paths = paths.FlowPaths(audio_paths.run, audio_paths.root)
    values = image.template_values(image_paths) | audio.template_values(audio_paths) | flow.template_values(flow_paths)
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(values)
