"""The base of both reference classifiers."""

import pytest
import torch
from torch import nn

from src import checkpoints, classifiers
from src.config import ClassifierConfig
from src.errors import CheckpointError


class Tiny(classifiers.ReferenceClassifier):
    """Two numbers -> three classes, through two features."""

    def __init__(self, config: ClassifierConfig):
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(2, 3)

    def features(self, inputs: torch.Tensor) -> torch.Tensor:
        return 2 * inputs


def test_features_and_logits_do_not_depend_on_the_batch_size_and_ignore_dropout():
    network = Tiny(ClassifierConfig(dropout=0.9)).eval()
    inputs = torch.randn(7, 2)
    features, logits = classifiers.describe(network, inputs, batch_size=3)
    assert torch.equal(features, 2 * inputs)
    torch.testing.assert_close(logits, network.output(2 * inputs).detach())
    with pytest.raises(ValueError, match="training mode"):
        classifiers.describe(network.train(), inputs, batch_size=3)


def test_accuracy_is_the_share_of_right_answers():
    logits = torch.eye(3)[[0, 1, 2, 2]]
    assert classifiers.accuracy(logits, torch.tensor([0, 1, 2, 0])) == 0.75
    assert classifiers.accuracy(logits, 2) == 0.5


def test_fitting_separates_what_is_separable_and_publishing_keeps_it(tmp_path):
    class Data:
        source = "points"

    config = ClassifierConfig(dropout=0.0, learning_rate=0.3)
    inputs = torch.tensor([[3.0, 0.0], [-3.0, 3.0], [-3.0, -3.0]])

    def train(config: ClassifierConfig, _: Data) -> Tiny:
        network = Tiny(config)
        classifiers.fit(network, [(inputs, torch.arange(3))] * 50, 50, config, progress=False)
        return network

    def measure(network: Tiny, _: Data) -> float:
        return classifiers.accuracy(classifiers.describe(network, inputs, 3)[1], torch.arange(3))

    path = tmp_path / "tiny.safetensors"
    splits = {name: Data() for name in ("train", "validation", "test")}
    assert classifiers.train_and_publish(train, measure, config, splits, path) == {"validation": 1.0, "test": 1.0}
    _, description = checkpoints.load_weights(path)
    assert description["data"] == "points" and description["accuracy"] == {"validation": 1.0, "test": 1.0}
    assert measure(checkpoints.load_network(path, ClassifierConfig, Tiny, "tiny network"), Data()) == 1.0
    with pytest.raises(
        CheckpointError, match=r"tiny\.safetensors is not a large network of this version of the project"
    ):
        checkpoints.load_network(path, ClassifierConfig, lambda config: nn.Linear(1, 1), "large network")
