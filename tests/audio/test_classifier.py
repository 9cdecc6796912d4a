"""The stem classifier: that it learns, is published whole, and says what it was given wrongly."""

import pytest
import torch

from src import classifiers, files, paths
from src.audio import classifier, data
from src.audio.data import Tracks
from src.config import StemClassifierConfig

RATE = 22050


def test_classifier_tells_noises_of_unlike_colour_apart_and_is_published_whole(tmp_path):
    spectra = torch.linspace(0, 1, 2 * RATE + 1)
    shapes = [torch.exp(-((spectra - centre) ** 2) / 0.005) for centre in (0.1, 0.3, 0.5, 0.8)]

    def stem(shape: torch.Tensor) -> torch.Tensor:
        sound = torch.fft.irfft(torch.fft.rfft(torch.randn(4 * RATE)) * shape)
        return sound / sound.std() * 0.1

    tracks = Tracks(tuple(torch.stack([stem(s) for s in shapes]) for _ in range(2)), ("a", "b"), RATE, "noise")
    config = StemClassifierConfig(width=2, steps=150, batch_size=8, learning_rate=1e-2)
    network = classifier.train(config, tracks, progress=False)
    assert classifier.accuracy(network, tracks) == 1.0
    classifiers.publish(network, config, {"data": "noise"}, tmp_path / "classifier.safetensors")
    again = classifier.load_classifier(tmp_path / "classifier.safetensors")
    waveforms = classifier.excerpts(tracks, 0)
    assert waveforms.shape == (2, 3 * RATE)
    for ours, theirs in zip(
        classifier.describe(network, waveforms), classifier.describe(again, waveforms), strict=True
    ):
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="training mode"):
        classifier.describe(network.train(), waveforms)


def test_committed_classifier_has_its_recorded_accuracy():
    tracks = data.load_musdb18("test", RATE)
    if not tracks.complete:
        pytest.skip("needs MUSDB18")
    recorded = files.load_json(paths.AUDIO.classifier.with_suffix(".json"))["accuracy"]["test"]
    assert classifier.accuracy(classifier.load_classifier(), tracks) == pytest.approx(recorded, abs=0.01)
