"""The base of both reference classifiers, whose features and logits evaluate generated digits and stems.

A reference classifier is a network trained on real data only. Its weights and accuracy are committed, so a score has
the same meaning on every machine and needs no download.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from src import checkpoints, runtime
from src.config import ClassifierConfig, StemClassifierConfig

AnyClassifierConfig = ClassifierConfig | StemClassifierConfig


class ReferenceClassifier(nn.Module):
    """Base class: inputs (batch, ...) -> logits (batch, classes), through penultimate features.

    A subclass creates `dropout` and `output`, and computes the features.
    """

    dropout: nn.Dropout
    output: nn.Linear

    def features(self, inputs: Tensor) -> Tensor:
        """Penultimate activations (batch, features)."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (batch, classes)."""
        return self.output(self.dropout(self.features(inputs)))


def convolution_block(inputs: int, outputs: int) -> list[nn.Module]:
    """A 3x3 convolution, batch norm and ReLU: (batch, inputs, height, width) -> (batch, outputs, height, width)."""
    return [
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def fit(
    classifier: ReferenceClassifier,
    batches: Iterable[tuple[Tensor, Tensor]],
    steps: int,
    config: AnyClassifierConfig,
    progress: bool = True,
) -> None:
    """Train in place on `steps` batches of inputs and labels, by AdamW with a one-cycle learning rate; then switch to
    evaluation mode."""
    device = next(classifier.parameters()).device
    optimiser = torch.optim.AdamW(classifier.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=steps)
    for inputs, labels in tqdm(batches, total=steps, desc="classifier", unit="step", disable=not progress):
        with runtime.autocast(device):
            logits = classifier(inputs.to(device))
            loss = cross_entropy(logits, labels.to(device), label_smoothing=config.label_smoothing)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    classifier.eval()


@torch.inference_mode()
def describe(classifier: ReferenceClassifier, inputs: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Features (count, features) and logits (count, classes) of inputs (count, ...), float32 on the CPU.

    Raises:
        ValueError: the classifier is in training mode.
    """
    if classifier.training:
        raise ValueError("the classifier is in training mode: call .eval() first")
    device = next(classifier.parameters()).device
    features = torch.cat([classifier.features(batch.to(device)) for batch in inputs.split(batch_size)])
    return features.cpu(), classifier.output(features).cpu()


def accuracy(logits: Tensor, labels: Tensor | int) -> float:
    """Share of logits (count, classes) whose largest one is at the label."""
    return (logits.argmax(1) == labels).double().mean().item()


def publish(classifier: ReferenceClassifier, config: AnyClassifierConfig, measured: dict, path: Path) -> None:
    """Write the weights, described by their configuration, the measured values and the machine."""
    description = {"config": asdict(config), **measured, "machine": runtime.describe_machine()}
    checkpoints.save_weights(path, classifier.state_dict(), description)


Classifier = TypeVar("Classifier", bound=ReferenceClassifier)


def train_and_publish(
    train: Callable[[AnyClassifierConfig, object], Classifier],
    measure: Callable[[Classifier, object], float],
    config: AnyClassifierConfig,
    splits: dict[str, object],
    path: Path,
) -> dict[str, float]:
    """Train on the split `train`, measure on `validation` and `test`, and publish at `path`. Returns the accuracies."""
    began = time.perf_counter()
    classifier = train(config, splits["train"])
    seconds = time.perf_counter() - began
    accuracies = {name: measure(classifier, splits[name]) for name in ("validation", "test")}
    source = splits["train"].source
    publish(classifier, config, {"data": source, "training_seconds": round(seconds, 1), "accuracy": accuracies}, path)
    return accuracies
