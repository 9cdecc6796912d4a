"""The evaluation protocol of digits, on small sets of noise."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch_fidelity import feature_extractor_inceptionv3

from src import paths
from src.config import EvaluationConfig, ImageConfig
from src.image import dcgan, evaluation, generate
from src.image.data import Digits
from src.metric_tables import CLASSIFICATION_ACCURACY, DIGIT_ACCURACY, FID, IMAGE_METRICS


@pytest.fixture
def small_mnist(monkeypatch) -> None:
    """80 images of noise as each split."""
    digits = Digits(torch.randint(0, 256, (80, 1, 28, 28), dtype=torch.uint8), torch.arange(80) % 10, "noise")
    monkeypatch.setattr(evaluation, "load_mnist", lambda _: digits)


@pytest.fixture
def generator() -> dcgan.Generator:
    return dcgan.build_generator(ImageConfig(latent_dim=8, generator_width=4)).eval()


SMALL = EvaluationConfig(count=60, seeds=(1, 2), kid_subsets=2, kid_subset_size=20)


def small_scorer() -> evaluation.Scorer:
    return evaluation.Scorer(evaluation.load_mnist("test"), evaluation.load_mnist("train"), SMALL)


def test_scored_digits_are_as_frequent_as_in_training(small_mnist, generator):
    train = Digits(torch.zeros(10, 1, 28, 28, dtype=torch.uint8), torch.tensor([7] * 8 + [1] * 2), "sevens and ones")
    images, digits = evaluation.Scorer(evaluation.load_mnist("test"), train, SMALL).sample(generator, 500, seed=3)
    assert torch.equal(images, generate.sample(generator, 500, 3, digits))
    assert set(digits.tolist()) == {1, 7}
    assert (digits == 7).double().mean().item() == pytest.approx(0.8, abs=0.06)


def test_evaluation_reports_mean_and_deviation_over_seeds_beside_real_images(small_mnist, generator):
    result = evaluation.evaluate(generator, SMALL, progress=False)
    scorer, labels = small_scorer(), evaluation.load_mnist("train").labels
    fids = [scorer.score(generate.sample(generator, 60, seed, generate.draw_digits(60, seed, labels)))
            for seed in SMALL.seeds]  # fmt: skip
    values = [row[FID] for row in fids]
    row = result["final"][FID]
    assert row["mean"] == pytest.approx(np.mean(values))
    assert row["std"] == pytest.approx(np.std(values, ddof=1))
    # `real` compares the first 60 images with the very set that they were taken from.
    assert row["real"] < row["mean"]
    assert result["final"]["precision_mnist"]["real"] == 1.0
    assert sum(result["final"]["digit_shares"]["mean"]) == pytest.approx(1)
    assert result["neighbours"]["median_distance_test"] == pytest.approx(0, abs=0.05)
    assert result["neighbours"]["percentile_1_distance_test"] == pytest.approx(0, abs=0.05)
    assert result["neighbours"]["percentile_1_distance_generated"] > 0
    assert {name: list(row) for name, row in result["fid_references"].items()} == {
        "random_training": ["test", "validation"], "validation": ["test"], "generated": ["test", "validation"],
        "generated_equally": ["test", "validation"],
    }  # fmt: skip
    assert result["fid_references"]["validation"]["test"] == pytest.approx([row["real"]])
    assert result["fid_references"]["generated"]["test"] == pytest.approx(values)
    assert "download" in result["not_measured"]["inception"]


def test_sets_of_digits_are_compared_with_the_validation_digits_too(small_mnist, generator):
    references = evaluation.evaluate(generator, SMALL, progress=False)["fid_references"]
    noise = evaluation.load_mnist("validation")
    against = evaluation.Scorer(Digits(noise.images[:60], noise.labels[:60], "held out"), noise, SMALL)
    expected = [against.score(against.sample(generator, 60, seed)[0])[FID] for seed in SMALL.seeds]
    assert references["generated"]["validation"] == pytest.approx(expected)
    equally = [against.score(generate.sample(generator, 60, seed))[FID] for seed in SMALL.seeds]
    assert references["generated_equally"]["validation"] == pytest.approx(equally)
    random_training = references["random_training"]["validation"]
    assert len(set(random_training)) == len(SMALL.seeds)
    assert max(random_training) < min(expected)


def test_one_seed_has_no_deviation(small_mnist, generator):
    one = EvaluationConfig(count=60, seeds=(1,), kid_subsets=2, kid_subset_size=20)
    assert evaluation.evaluate(generator, one, progress=False)["final"]["fid_mnist"]["std"] is None


def test_a_checkpoint_leaves_its_grid(small_mnist, generator, tmp_path):
    scorer = small_scorer()
    run_paths = paths.ImagePaths("trial", tmp_path)
    scorer.save_examples(generator, run_paths, 5)
    assert run_paths.grid(5).is_file()
    images, _ = scorer.sample(generator, 60, SMALL.seeds[0], latent_std=1.0)
    assert scorer.score_checkpoint(generator) == scorer.score(images)


def test_remeasuring_yields_recorded_beside_measured_values(small_mnist, generator, monkeypatch, tmp_path):
    monkeypatch.setattr(Digits, "complete", True)
    monkeypatch.setattr(evaluation.dcgan, "load_model", lambda path: generator)
    monkeypatch.setitem(evaluation.IMAGE_PROFILES, "full", (ImageConfig(), SMALL))
    run_paths = paths.ImagePaths("trial", tmp_path)
    evaluation.files.save_json(run_paths.metrics, evaluation.evaluate(generator, SMALL, progress=False))
    rows = list(evaluation.remeasure(run_paths))
    # Without those that need a training or Inception's weights.
    assert [metric for metric, *_ in rows] == [m for m in IMAGE_METRICS[:-3] if m != CLASSIFICATION_ACCURACY]
    assert all(recorded == pytest.approx(measured) for _, recorded, measured, _ in rows)
    final = evaluation.files.load_json(run_paths.metrics)["final"]
    assert all(allowed == final[metric]["std"] for metric, _, _, allowed in rows)


def test_without_its_weights_inception_is_not_measured_and_says_so(small_mnist, generator, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(feature_extractor_inceptionv3, "URL_INCEPTION_V3", "http://127.0.0.1:9/weights.pth")
    with pytest.warns(UserWarning, match="Inception metrics are not measured"):
        result = evaluation.evaluate(generator, SMALL, inception="download", progress=False)
    assert "could not be downloaded" in result["not_measured"]["inception"]
    assert "fid_inception" not in result["final"]


def test_parts_of_a_digit_are_counted_where_there_is_ink():
    images = torch.zeros(4, 1, 28, 28, dtype=torch.uint8)
    images[:, 0, 4:12, 4] = 255
    images[1, 0, 12:15, 5] = 65  # touches at a corner
    images[2, 0, 20, 20] = 64  # too pale to count
    images[3, 0, 20, 20] = 65
    assert evaluation.in_several_parts(images).tolist() == [False, False, False, True]


def test_the_requested_digits_are_compared_with_those_that_the_classifier_reads(small_mnist):
    scorer = small_scorer()
    read = scorer.logits.argmax(1)
    asked = torch.cat([read[:20], (read[20:] + 1) % 10])  # 20 of 80 as read
    assert scorer.score_all(scorer.real.images, asked)[DIGIT_ACCURACY] == 0.25
    assert DIGIT_ACCURACY not in scorer.score_all(scorer.real.images)


def test_classifiers_learn_from_the_digits_that_were_asked_for(small_mnist, generator, monkeypatch):
    """The generated training digits carry the labels that they were asked by, in number and seed as configured."""
    trained = []

    def train(config, digits, progress):
        trained.append((config.epochs, config.seed, digits.source, len(digits)))
        if digits.source == "generated":
            assert torch.equal(digits.images, generate.sample(generator, len(digits), config.seed, digits.labels))
        return digits.source

    monkeypatch.setattr(evaluation.classifier, "train", train)
    monkeypatch.setattr(evaluation.classifier, "accuracy", lambda source, test: {"generated": 0.5}.get(source, 0.75))
    config = replace(SMALL, seeds=(1, 2, 3), classifier_digits=70, classifier_epochs=2, classifier_seeds=2)
    digits = evaluation.load_mnist("any")
    row = evaluation._classification_accuracy(generator, digits, evaluation.Scorer(digits, digits, config))
    assert row == {"mean": 0.5, "std": 0.0, "real": 0.75}
    assert trained == [(2, 1, "generated", 70), (2, 1, "noise", 70), (2, 2, "generated", 70), (2, 2, "noise", 70)]
