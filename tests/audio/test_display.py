"""Pictures and players."""

import base64
import io
import re

import numpy as np
import pytest
import soundfile
from PIL import Image

from src import files
from src.audio import display
from src.audio.spectrogram import MelSpectrogram
from src.figures import NOTEBOOK_DPI, WIDTH

RATE = 22050
MEL = MelSpectrogram(RATE, 40, 1024, 256)


def decoded(html: str) -> np.ndarray:
    """The sound of a player."""
    data = re.search(r"data:audio/flac;base64,([^\"]+)", html)[1]
    return soundfile.read(io.BytesIO(base64.b64decode(data)), dtype="int16")[0]


def test_a_player_holds_every_sample():
    wave = np.linspace(-1, 1, RATE, dtype=np.float32)
    np.testing.assert_allclose(decoded(display.player(wave, RATE)) / 32768, wave, atol=1 / 32768)


def test_a_sound_is_a_picture_and_a_player_and_turned_down_where_it_must(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *parts: shown.append(parts))
    titles = []
    draw = display._sound_figure
    monkeypatch.setattr(display, "_sound_figure", lambda title, *rest: titles.append(title) or draw(title, *rest))
    tone = np.sin(np.arange(RATE) / 10).astype(np.float32)
    display.show_sounds({"quiet": tone / 2, "loud": 2 * tone}, MEL)
    assert titles == ["quiet", "loud (turned down by 6.0 dB)"]
    quiet, loud = (decoded(player.data) for _, player in shown)
    assert np.abs(quiet).max() == pytest.approx(16384, abs=30) and np.abs(loud).max() >= 32700
    picture = Image.open(io.BytesIO(shown[0][0].data))
    assert picture.width == round(WIDTH * NOTEBOOK_DPI)
    assert picture.convert("RGBA").getpixel((0, 0))[3] == 0  # transparent, for light and for dark pages
    with pytest.raises(ValueError, match="sound of broken holds values that are not finite"):
        display.show_sounds({"broken": np.full(RATE, np.nan, np.float32)}, MEL)


def test_spectrograms_stand_side_by_side_under_their_titles(tmp_path):
    mels = {name: np.full((frames, 40), -20, np.float32) for name, frames in (("a", 10), ("b", 20), ("c", 20))}
    figure = display.spectrogram_figure(mels, MEL)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["a", "b", "c"]
    assert not figure.axes[3].axison
    assert figure.axes[1].get_xlim()[1] == pytest.approx(20 * 256 / RATE, abs=0.01)  # seconds
    files.save_figure(tmp_path / "picture.png", figure, dpi=80)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
