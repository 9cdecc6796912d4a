"""Style of the figures: sizes and colours for light pages, dark pages and notebooks."""

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from src.files import save_figure

# The palette of Okabe and Ito, which colour-blind readers can distinguish; it is legible on white and on black.
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#808080"
WIDTH = 5.5  # inches: on a phone's 360 pixels, 10-point text is still 9 pixels high
DPI = 110
NOTEBOOK_DPI = 90
STYLE = {
    "font.size": 10.5,
    "axes.titlesize": 10.5,
    "figure.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GREY,
    "grid.alpha": 0.3,
    "lines.linewidth": 2,
    "lines.markersize": 6,
    "legend.frameon": False,
}


def colours(text: str, background: str) -> dict[str, str]:
    """Matplotlib's parameters for text and axes of one colour on a background."""
    texts = ("text.color", "axes.labelcolor", "axes.titlecolor", "axes.edgecolor", "xtick.color", "ytick.color")
    faces = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
    return dict.fromkeys(texts, text) | dict.fromkeys(faces, background)


LIGHT, DARK = colours("#1f2328", "#ffffff"), colours("#e6edf3", "#0d1117")
NEUTRAL = colours("#7d7d7d", "none")  # for notebooks, which do not know their background


def save_themes(path: Path, draw: Callable[[], Figure], dpi: int = DPI) -> list[Path]:
    """Write the figure that `draw()` returns for light pages to `path`, and for dark pages beside it, with `_dark` at
    the end of the name. Returns both paths. Raises OutputError."""
    both = {path: LIGHT, path.with_stem(f"{path.stem}_dark"): DARK}
    for themed, theme in both.items():
        with matplotlib.rc_context(STYLE | theme):
            save_figure(themed, draw(), dpi)
    return list(both)


def set_notebook_style() -> None:
    """Give all figures of a notebook this style, and store them as small pictures."""
    from IPython import get_ipython

    # Only the PNG is transparent: behind a transparent figure Jupyter would put a light background, in dark mode too.
    matplotlib.rcParams.update(STYLE | NEUTRAL | {"figure.figsize": (WIDTH, 3), "figure.facecolor": "white"})
    get_ipython().display_formatter.formatters["image/png"].for_type(Figure, small_png)


def small_png(figure: Figure) -> bytes:
    """The figure as a PNG of 256 colours with its transparency: a third of the usual size."""
    memory = io.BytesIO()
    figure.savefig(memory, format="png", dpi=NOTEBOOK_DPI)
    picture = Image.open(memory).convert("RGBA").quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    small = io.BytesIO()
    picture.save(small, "PNG", optimize=True)
    return small.getvalue()
