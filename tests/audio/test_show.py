"""Pictures and players."""

import numpy as np

from src.audio import show
from src.config import AudioConfig

RATE = 22050


def test_player_holds_the_sound_and_turns_it_down_where_it_must():
    assert "data:audio/mpeg;base64," in show.player("drums", np.zeros(RATE, np.float32), RATE)
    assert "turned down by 6.0 dB" in show.player("loud", np.full(RATE, 2.0, np.float32), RATE)


def test_spectrograms_stand_side_by_side_under_their_titles(tmp_path):
    figure = show.spectrograms(
        {"a": np.zeros((10, 40), np.float32), "b": np.ones((20, 40), np.float32)}, AudioConfig(mel_bands=40)
    )
    assert [axes.get_title() for axes in figure.axes[:2]] == ["a", "b"]
    show.save(figure, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
