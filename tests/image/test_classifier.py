"""The reference classifier: shapes, distortions, learning, and the committed weights."""

import pytest
import torch

from src import files, paths
from src.config import ClassifierConfig
from src.image import classifier, data


def test_features_and_logits_have_the_documented_shapes():
    network = classifier.Classifier(ClassifierConfig(width=4, dropout=0.0)).eval()
    features, logits = classifier.describe(network, torch.zeros(7, 1, 28, 28, dtype=torch.uint8), batch_size=3)
    assert features.shape == (7, classifier.FEATURES)
    assert logits.shape == (7, 10)
    assert (features >= 0).all()


def test_wrong_images_and_training_mode_are_refused():
    network = classifier.Classifier(ClassifierConfig(width=4, dropout=0.0)).eval()
    with pytest.raises(ValueError, match="expected uint8"):
        classifier.describe(network, torch.zeros(2, 1, 28, 28))
    with pytest.raises(ValueError, match="expected uint8"):
        classifier.describe(network, torch.zeros(2, 28, 28, dtype=torch.uint8))
    with pytest.raises(ValueError, match="training mode"):
        classifier.describe(network.train(), torch.zeros(2, 1, 28, 28, dtype=torch.uint8))


def test_distortion_is_small_and_seeded(blobs):
    images = blobs.images.float() / 255
    first, again = (classifier._distort(images, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, images)
    ink = first.sum(dim=(1, 2, 3)) / images.sum(dim=(1, 2, 3))
    assert ((ink > 0.6) & (ink < 1.4)).all()


def test_it_learns_ten_places_of_a_square(blobs):
    config = ClassifierConfig(width=4, epochs=30, batch_size=16, learning_rate=1e-2, dropout=0.0)
    assert classifier.accuracy(classifier.train(config, blobs, progress=False), blobs) > 0.9


def test_committed_classifier_has_its_recorded_accuracy():
    network = classifier.load_classifier()
    recorded = files.load_json(paths.IMAGE.classifier.with_suffix(".json"))["accuracy"]
    assert recorded["test"] >= 0.994
    test = data.load_mnist("test")
    if test.complete:
        assert classifier.accuracy(network, test) == pytest.approx(recorded["test"], abs=2e-4)
    else:  # the packaged sample is easier: most of it was trained on
        assert classifier.accuracy(network, test) > 0.99


def test_shares_count_the_largest_logit():
    logits = torch.eye(10)[[0, 0, 0, 9]]
    assert classifier.digit_shares(logits) == pytest.approx([0.75, 0, 0, 0, 0, 0, 0, 0, 0, 0.25])
