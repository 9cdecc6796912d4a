"""The reference stem classifier; its features and answers evaluate generated audio.

It classifies the log-mel spectrogram of a few seconds. The Frechet distance is taken between its penultimate features.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from src import checkpoints, classifiers, paths, runtime
from src.audio.data import Tracks, draw_excerpt
from src.audio.spectrogram import MelSpectrogram
from src.classifiers import convolution_block
from src.config import SILENT_EXCERPT_POWER, STEMS, AudioConfig, StemClassifierConfig

FEATURES = 64
SECONDS = 3.0  # length of the excerpts that it is trained on and classifies
RANGE_DB = 80.0  # range of its input below the loudest bin


class StemClassifier(classifiers.ReferenceClassifier):
    """Waveforms (batch, samples) with full scale 1 -> 4 logits, in the order of `STEMS`, through 64 features."""

    def __init__(self, config: StemClassifierConfig):
        super().__init__()
        self.spectrogram = MelSpectrogram.from_config(AudioConfig())
        width = config.width
        self.convolutions = nn.Sequential(
            *convolution_block(1, width), nn.MaxPool2d(2),
            *convolution_block(width, 2 * width), nn.MaxPool2d(2),
            *convolution_block(2 * width, 4 * width), nn.MaxPool2d(2),
            *convolution_block(4 * width, FEATURES),
        )  # fmt: skip
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(FEATURES, len(STEMS))

    def features(self, inputs: Tensor) -> Tensor:
        """Penultimate activations (batch, 64), non-negative, means over time and frequency."""
        log_mel = self.spectrogram.log_mel(inputs)
        loudest = log_mel.amax(dim=(1, 2), keepdim=True)
        scaled = (torch.maximum(log_mel, loudest - RANGE_DB) - loudest) / 20 + 2
        halved = functional.avg_pool2d(scaled[:, None], (2, 1))  # 43 frames a second are enough to tell stems apart
        return self.convolutions(halved).mean(dim=(2, 3))


def load_classifier(path: Path = paths.AUDIO.classifier) -> StemClassifier:
    """The published classifier, in evaluation mode, on this process's device. Raises CheckpointError."""
    network = checkpoints.load_network(path, StemClassifierConfig, StemClassifier, "stem classifier")
    return network.to(runtime.device())


def describe(classifier: StemClassifier, waveforms: Tensor, batch_size: int = 50) -> tuple[Tensor, Tensor]:
    """Features (count, 64) and logits (count, 4), float32 on the CPU, of waveforms (count, samples).

    Raises:
        ValueError: the classifier is in training mode.
    """
    return classifiers.describe(classifier, waveforms, batch_size)


def excerpts(tracks: Tracks, stem_index: int) -> Tensor:
    """Consecutive excerpts (count, samples) of a stem, from the beginning of each track, without the silent ones."""
    samples = int(SECONDS * tracks.sample_rate)
    parts = [stems[stem_index].unfold(0, samples, samples) for stems in tracks.waveforms if stems.shape[1] >= samples]
    together = torch.cat(parts)
    return together[together.square().mean(1) > SILENT_EXCERPT_POWER]


def accuracy(classifier: StemClassifier, tracks: Tracks) -> float:
    """Share of the tracks' excerpts whose stem has the largest logit, mean over stems."""
    outputs = [describe(classifier, excerpts(tracks, stem_index)) for stem_index in range(len(STEMS))]
    shares = [classifiers.accuracy(logits, stem_index) for stem_index, (_, logits) in enumerate(outputs)]
    return sum(shares) / len(shares)


def train(config: StemClassifierConfig, tracks: Tracks, progress: bool = True) -> StemClassifier:
    """Train on random excerpts of `tracks`. Returned in evaluation mode."""
    with runtime.seeded(config.seed):
        classifier = StemClassifier(config).to(runtime.device())
        classifiers.fit(classifier, _batches(config, tracks), config.steps, config, progress)
    return classifier


def _batches(config: StemClassifierConfig, tracks: Tracks) -> Iterator[tuple[Tensor, Tensor]]:
    stream = runtime.random_stream(config.seed)
    samples = int(SECONDS * tracks.sample_rate)
    labels = torch.arange(config.batch_size) % len(STEMS)
    for _ in range(config.steps):
        yield torch.stack([draw_excerpt(tracks, int(label), samples, stream) for label in labels]), labels
