"""Pictures and players."""

import numpy as np
import pytest

from src import files
from src.audio import display
from src.audio.spectrogram import MelSpectrogram

RATE = 22050


def test_player_holds_the_sound_and_turns_it_down_where_it_must():
    assert "data:audio/mpeg;base64," in display.player("drums", np.zeros(RATE, np.float32), RATE)
    with pytest.raises(ValueError, match="not finite"):
        display.player("broken", np.full(RATE, np.nan, np.float32), RATE)
    assert "turned down by 6.0 dB" in display.player("loud", np.full(RATE, 2.0, np.float32), RATE)


def test_spectrograms_stand_side_by_side_under_their_titles(tmp_path):
    mels = {name: np.full((frames, 40), -20, np.float32) for name, frames in (("a", 10), ("b", 20), ("c", 20))}
    figure = display.spectrogram_figure(mels, MelSpectrogram(RATE, 40, 1024, 256), columns=2)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["a", "b", "c"]
    assert not figure.axes[3].axison
    assert figure.axes[1].get_xlim()[1] == pytest.approx(20 * 256 / RATE, abs=0.01)  # seconds
    files.save_figure(tmp_path / "picture.png", figure, dpi=80)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
