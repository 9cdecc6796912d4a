"""Figures for light and for dark pages."""

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageColor

from src import figures


def draw() -> Figure:
    figure = Figure(figsize=(figures.WIDTH, 2))
    figure.subplots().set_title("a title")
    return figure


def test_a_figure_is_written_in_light_and_dark_colours_of_one_size(tmp_path):
    paths = figures.save_themes(tmp_path / "curve.png", draw)
    assert [path.name for path in paths] == ["curve.png", "curve_dark.png"]
    light, dark = (Image.open(path).convert("RGB") for path in paths)
    assert light.size == dark.size == (round(figures.WIDTH * figures.DPI), 2 * figures.DPI)
    assert light.getpixel((0, 0)) == ImageColor.getrgb("#ffffff")
    assert dark.getpixel((0, 0)) == ImageColor.getrgb("#0d1117")
    assert np.asarray(light).min() < 60 and np.asarray(dark).max() > 200  # text stands out on both


def test_text_is_at_least_9_pixels_high_on_a_phone_of_390_pixels():
    page = 390 - 32  # GitHub's margins
    assert figures.STYLE["font.size"] / 72 / figures.WIDTH * page >= 9
    assert {key for key in figures.STYLE if key.endswith("size")} == {
        "font.size", "axes.titlesize", "figure.titlesize", "lines.markersize"
    }  # fmt: skip
