"""The stem classifier: the ears behind the scores of generated audio.

It reads the log-mel spectrogram of a few seconds and names the stem; its penultimate features carry the Frechet
distance. Weights and accuracy are committed, so the scores mean the same everywhere and work offline.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from src import checkpoints, classification, paths, runtime
from src.audio import spectrogram
from src.audio.data import SILENCE, STEMS, Tracks, draw_excerpt
from src.config import AudioConfig, StemClassifierConfig

FEATURES = 64
SECONDS = 3.0  # of the excerpts that it is trained on and judges


class StemClassifier(nn.Module):
    """Waveforms (batch, samples) with full scale 1 -> 4 logits, in the order of `STEMS`, through 64 features."""

    def __init__(self, config: StemClassifierConfig):
        super().__init__()
        width = config.width
        self.convolutions = nn.Sequential(
            *_block(1, width), nn.MaxPool2d(2),
            *_block(width, 2 * width), nn.MaxPool2d(2),
            *_block(2 * width, 4 * width), nn.MaxPool2d(2),
            *_block(4 * width, FEATURES),
        )  # fmt: skip
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(FEATURES, len(STEMS))

    def features(self, waveforms: Tensor) -> Tensor:
        """Penultimate activations (batch, 64), non-negative, means over time and frequency."""
        form = AudioConfig()
        mel = spectrogram.log_mel(waveforms, form.sample_rate, form.mel_bands, form.mel_window, form.mel_hop)
        loudest = mel.amax(dim=(1, 2), keepdim=True)
        pictures = (torch.maximum(mel, loudest - 80) - loudest) / 20 + 2
        pictures = functional.avg_pool2d(pictures[:, None], (2, 1))  # 43 frames a second are enough to tell stems apart
        return self.convolutions(pictures).mean(dim=(2, 3))

    def forward(self, waveforms: Tensor) -> Tensor:
        return self.output(self.dropout(self.features(waveforms)))


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def load_classifier(path: Path = paths.AUDIO.classifier) -> StemClassifier:
    """The committed classifier, in evaluation mode, on this process's device."""
    weights, description = checkpoints.load_weights(path)
    classifier = StemClassifier(StemClassifierConfig(**description["config"]))
    classifier.load_state_dict(weights)
    return classifier.eval().to(runtime.device())


@torch.inference_mode()
def describe(classifier: StemClassifier, waveforms: Tensor, batch_size: int = 50) -> tuple[Tensor, Tensor]:
    """Features (count, 64) and logits (count, 4), float32 on the CPU, of waveforms (count, samples)."""
    if classifier.training:
        raise ValueError("the classifier is in training mode: call .eval() first")
    where = next(classifier.parameters()).device
    features = torch.cat([classifier.features(batch.to(where)) for batch in waveforms.split(batch_size)])
    return features.cpu(), classifier.output(features).cpu()


def excerpts(tracks: Tracks, stem: int) -> Tensor:
    """Every whole excerpt (count, samples) of a stem that is not silent, side by side from each track's beginning."""
    samples = int(SECONDS * tracks.sample_rate)
    parts = [stems[stem].unfold(0, samples, samples) for stems in tracks.waveforms if stems.shape[1] >= samples]
    together = torch.cat(parts)
    return together[together.square().mean(1) > SILENCE]


def accuracy(classifier: StemClassifier, tracks: Tracks) -> float:
    """Share of the tracks' excerpts whose stem has the largest logit, mean over stems."""
    shares = []
    for stem in range(len(STEMS)):
        _, logits = describe(classifier, excerpts(tracks, stem))
        shares.append((logits.argmax(1) == stem).double().mean().item())
    return sum(shares) / len(shares)


def train(config: StemClassifierConfig, tracks: Tracks, progress: bool = True) -> StemClassifier:
    """Train on random excerpts of `tracks`; returned in evaluation mode."""
    where = runtime.device()
    torch.manual_seed(config.seed)
    classifier = StemClassifier(config).to(where)
    classification.fit(classifier, _batches(config, tracks), config.steps, config, progress)
    return classifier


def _batches(config: StemClassifierConfig, tracks: Tracks) -> Iterator[tuple[Tensor, Tensor]]:
    stream = runtime.random_stream(config.seed)
    samples = int(SECONDS * tracks.sample_rate)
    stems = torch.arange(config.batch_size) % len(STEMS)
    for _ in range(config.steps):
        yield torch.stack([draw_excerpt(tracks, int(stem), samples, stream) for stem in stems]), stems
