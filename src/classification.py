"""What the reference classifiers of digits and of stems share: how they are trained, and how they are published."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from src import checkpoints, runtime
from src.config import ClassifierConfig, StemClassifierConfig


def fit(
    classifier: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    steps: int,
    config: ClassifierConfig | StemClassifierConfig,
    progress: bool = True,
) -> None:
    """Train in place on `steps` batches of inputs and labels, with AdamW and a one-cycle schedule of its learning rate;
    left in evaluation mode."""
    where = next(classifier.parameters()).device
    optimiser = torch.optim.AdamW(classifier.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=steps)
    for inputs, labels in tqdm(batches, total=steps, desc="classifier", unit="step", disable=not progress):
        with runtime.autocast(where):
            loss = cross_entropy(classifier(inputs.to(where)), labels.to(where), label_smoothing=config.label_smoothing)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    classifier.eval()


def publish(classifier: nn.Module, config: ClassifierConfig | StemClassifierConfig, measured: dict, path: Path) -> None:
    """Write the weights, and beside them the configuration and what was `measured`, and on what machine."""
    description = {"config": asdict(config), **measured, "machine": runtime.describe()}
    checkpoints.save_weights(path, classifier.state_dict(), description)
