"""The evaluation protocol of digits, on small sets of noise."""

import numpy as np
import pytest
import torch
from torch_fidelity import feature_extractor_inceptionv3

from src import paths
from src.config import EvaluationConfig, ImageConfig
from src.image import dcgan, evaluation, generate
from src.image.data import Digits
from src.metric_tables import FID, IMAGE_METRICS


@pytest.fixture
def small_mnist(monkeypatch) -> None:
    """80 images of noise as each split."""
    digits = Digits(torch.randint(0, 256, (80, 1, 28, 28), dtype=torch.uint8), torch.arange(80) % 10, "noise")
    monkeypatch.setattr(evaluation, "load_mnist", lambda _: digits)


@pytest.fixture
def generator() -> dcgan.Generator:
    return dcgan.build_generator(ImageConfig(latent_dim=8, generator_width=4)).eval()


SMALL = EvaluationConfig(count=60, seeds=(1, 2), kid_subsets=2, kid_subset_size=20)


def test_evaluation_reports_mean_and_deviation_over_seeds_beside_real_images(small_mnist, generator):
    result = evaluation.evaluate(generator, SMALL, progress=False)
    fids = [evaluation.Judge(evaluation.load_mnist("test"), SMALL).score(generate.sample(generator, 60, seed))
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
    assert "download" in result["not_measured"]["inception"]


def test_one_seed_has_no_deviation(small_mnist, generator):
    one = EvaluationConfig(count=60, seeds=(1,), kid_subsets=2, kid_subset_size=20)
    assert evaluation.evaluate(generator, one, progress=False)["final"]["fid_mnist"]["std"] is None


def test_a_checkpoint_leaves_its_grid(small_mnist, generator, tmp_path):
    judge = evaluation.Judge(evaluation.load_mnist("test"), SMALL)
    run_paths = paths.ImagePaths("trial", tmp_path)
    judge.illustrate(generator, run_paths, 5)
    assert run_paths.grid(5).is_file()
    assert judge.score_checkpoint(generator) == judge.score(generate.sample(generator, 60, SMALL.seeds[0]))


def test_remeasuring_yields_recorded_beside_measured_values(small_mnist, generator, monkeypatch, tmp_path):
    monkeypatch.setattr(Digits, "complete", True)
    monkeypatch.setattr(evaluation.dcgan, "load_model", lambda path: generator)
    monkeypatch.setitem(evaluation.IMAGE_PROFILES, "full", (ImageConfig(), SMALL))
    run_paths = paths.ImagePaths("trial", tmp_path)
    evaluation.files.save_json(run_paths.metrics, evaluation.evaluate(generator, SMALL, progress=False))
    rows = list(evaluation.remeasure(run_paths))
    assert [metric for metric, *_ in rows] == list(IMAGE_METRICS[:7])  # without Inception's
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
