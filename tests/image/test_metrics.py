"""The metrics against closed forms, independent implementations and invalid input."""

import http.server
import math
import threading
from functools import partial

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity import feature_extractor_inceptionv3
from torchmetrics.image.fid import NoTrainInceptionV3

from src.checkpoints import CheckpointError
from src.config import EvaluationConfig, ImageConfig
from src.image import dcgan, metrics
from src.image.data import Digits


def gaussian(count: int, mean: np.ndarray, covariance: np.ndarray, seed: int = 0) -> torch.Tensor:
    """A sample moved and stretched to have exactly this mean and (unbiased) covariance."""
    raw = np.random.default_rng(seed).standard_normal((count, len(mean)))
    raw -= raw.mean(0)
    whitened = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T))).T
    return torch.from_numpy(whitened @ np.linalg.cholesky(covariance).T + mean)


# --- FID ---


def test_fid_of_two_gaussians_with_diagonal_covariances_is_the_closed_form():
    first = gaussian(500, np.array([0.0, 0.0, 0.0]), np.diag([1.0, 4.0, 9.0]))
    second = gaussian(400, np.array([1.0, 2.0, 0.0]), np.diag([4.0, 1.0, 9.0]), seed=1)
    # |m1 - m2|^2 + sum (s1 - s2)^2 = 5 + (1 + 1 + 0)
    assert metrics.fid(first, second) == pytest.approx(7.0, abs=1e-6)


def test_fid_agrees_with_the_matrix_square_root():
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(300, 6)) ** 3, generator.gamma(2.0, size=(200, 6))
    difference = first.mean(0) - second.mean(0)
    covariances = np.cov(first.T), np.cov(second.T)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = difference @ difference + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert metrics.fid(torch.from_numpy(first), torch.from_numpy(second)) == pytest.approx(expected, rel=1e-6)


def test_fid_of_a_set_with_itself_is_zero_and_it_is_symmetric():
    first, second = torch.randn(200, 5), torch.randn(200, 5) * 2
    assert metrics.fid(first, first) == pytest.approx(0, abs=1e-6)
    assert metrics.fid(first, second) == pytest.approx(metrics.fid(second, first), rel=1e-9)


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (torch.randn(5), torch.randn(5, 2), "real has shape"),
        (torch.randn(5, 2), torch.randn(1, 2), "fake has shape"),
        (torch.randn(5, 2), torch.full((5, 2), math.nan), "not finite"),
        (torch.randn(5, 2), torch.randn(5, 3), "must agree"),
    ],
)
def test_feature_sets_are_validated(real, fake, message):
    with pytest.raises(ValueError, match=message):
        metrics.fid(real, fake)


# --- KID ---


def test_kid_agrees_with_the_unbiased_estimate_of_the_definition():
    real, fake = torch.randn(60, 4).double(), torch.randn(60, 4).double() + 0.5

    def kernel(a, b):
        return (a @ b.T / 4 + 1) ** 3

    def off_diagonal(matrix):
        return (matrix.sum() - matrix.diagonal().sum()) / (60 * 59)

    expected = off_diagonal(kernel(real, real)) + off_diagonal(kernel(fake, fake)) - 2 * kernel(real, fake).mean()
    assert metrics.kid(real, fake, subsets=2, subset_size=60) == pytest.approx(expected.item(), rel=1e-9)


def test_kid_is_seeded_and_leaves_the_global_random_state_alone():
    real, fake = torch.randn(100, 4), torch.randn(100, 4)
    before = torch.get_rng_state()
    values = {metrics.kid(real, fake, subsets=5, subset_size=20) for _ in range(3)}
    assert len(values) == 1
    assert torch.equal(before, torch.get_rng_state())


def test_kid_refuses_fewer_images_than_a_subset():
    with pytest.raises(ValueError, match="count >= 50"):
        metrics.kid(torch.randn(100, 4), torch.randn(20, 4), subsets=1, subset_size=50)


# --- Inception Score ---


def test_inception_score_of_sure_and_balanced_classes_is_their_number():
    logits = torch.eye(10).repeat(500, 1) * 100
    assert metrics.inception_score(logits, splits=1) == pytest.approx(10.0, rel=1e-5)


def test_inception_score_of_a_collapsed_set_is_one():
    logits = (torch.eye(10)[3] * 100).repeat(500, 1)
    assert metrics.inception_score(logits, splits=10) == pytest.approx(1.0, rel=1e-6)


def test_inception_score_of_an_unsure_classifier_is_one():
    assert metrics.inception_score(torch.zeros(500, 10), splits=10) == pytest.approx(1.0, rel=1e-6)


def test_inception_score_agrees_with_numpy():
    logits = torch.randn(300, 10).double() * 3
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    expected = math.exp((p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean())
    assert metrics.inception_score(logits, splits=1) == pytest.approx(expected, rel=1e-6)


def test_inception_score_refuses_fewer_images_than_splits():
    with pytest.raises(ValueError, match="count >= 10"):
        metrics.inception_score(torch.zeros(5, 10), splits=10)


# --- precision and recall, shares, neighbours ---


def test_precision_and_recall_of_a_set_with_itself_are_one():
    points = torch.randn(50, 3)
    assert metrics.precision_recall(points, points, neighbours=3) == (1.0, 1.0)


def test_precision_and_recall_of_sets_far_apart_are_zero():
    assert metrics.precision_recall(torch.randn(50, 3), torch.randn(50, 3) + 1000, neighbours=3) == (0.0, 0.0)


def test_a_dropped_mode_costs_recall_and_an_invented_one_precision():
    near, far = torch.randn(100, 2), torch.randn(100, 2) + 1000
    precision, recall = metrics.precision_recall(torch.cat([near, far]), near, neighbours=3)
    assert precision == 1.0
    assert recall == pytest.approx(0.5)
    precision, recall = metrics.precision_recall(near, torch.cat([near, far]), neighbours=3)
    assert precision == pytest.approx(0.5)
    assert recall == 1.0


def test_precision_agrees_with_the_definition_point_by_point():
    real, fake = torch.randn(40, 3), torch.randn(30, 3) * 1.5

    def covered(points, centres, k):
        inside = 0
        for point in points:
            for centre in centres:
                radius = sorted((centre - other).norm().item() for other in centres)[k]
                if (point - centre).norm().item() <= radius * (1 + 1e-6):
                    inside += 1
                    break
        return inside / len(points)

    assert metrics.precision_recall(real, fake, 3) == (covered(fake, real, 3), covered(real, fake, 3))


def test_digit_shares_count_the_largest_logit():
    shares = metrics.digit_shares(torch.eye(10)[[0, 0, 0, 9]])
    assert shares == pytest.approx([0.75, 0, 0, 0, 0, 0, 0, 0, 0, 0.25])


def test_nearest_neighbour_of_a_training_image_is_itself():
    training = torch.randint(0, 256, (20, 1, 28, 28), dtype=torch.uint8)
    indices, distances = metrics.nearest_neighbours(training[[7, 3]], training)
    assert indices.tolist() == [7, 3]
    assert distances.tolist() == pytest.approx([0, 0], abs=0.05)


def test_neighbour_distance_is_root_mean_square_in_grey_levels():
    black, grey = torch.zeros(1, 1, 28, 28, dtype=torch.uint8), torch.full((1, 1, 28, 28), 100, dtype=torch.uint8)
    assert metrics.nearest_neighbours(grey, black)[1].item() == pytest.approx(100)


# --- the protocol ---


@pytest.fixture
def small_mnist(monkeypatch) -> None:
    """80 images of noise as each split."""
    digits = Digits(torch.randint(0, 256, (80, 1, 28, 28), dtype=torch.uint8), torch.arange(80) % 10, "noise")
    monkeypatch.setattr(metrics, "load_mnist", lambda _: digits)


@pytest.fixture
def generator() -> dcgan.Generator:
    return dcgan.build_generator(ImageConfig(latent_dim=8, generator_width=4)).eval()


SMALL = EvaluationConfig(count=60, seeds=(1, 2), kid_subsets=2, kid_subset_size=20)


def test_evaluation_reports_mean_and_deviation_over_seeds_beside_real_images(small_mnist, generator):
    result = metrics.evaluate(generator, SMALL, progress=False)
    fids = [metrics.Judge(metrics.load_mnist("test"), SMALL).quick(metrics.generate.sample(generator, 60, seed))
            for seed in SMALL.seeds]  # fmt: skip
    values = [row["fid_mnist"] for row in fids]
    row = result["final"]["fid_mnist"]
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
    assert metrics.evaluate(generator, one, progress=False)["final"]["fid_mnist"]["std"] is None


# --- Inception, with random weights: the real ones cannot be packaged ---


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(NoTrainInceptionV3, "load_state_dict", lambda *_: None)
        network = NoTrainInceptionV3("inception-v3-compat", ["2048"])
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


def test_inception_reads_digits_from_given_weights(inception_weights):
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    features, logits = metrics.Inception(inception_weights).describe(images, batch_size=2)
    assert features.shape == (3, 2048)
    assert logits.shape == (3, 1008)


def test_inception_downloads_its_weights(inception_weights, monkeypatch, tmp_path):
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=inception_weights.parent)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/weights.pth"
        monkeypatch.setattr(feature_extractor_inceptionv3, "URL_INCEPTION_V3", address)
        images = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
        downloaded, given = metrics.Inception(), metrics.Inception(inception_weights)
        assert torch.equal(downloaded.describe(images)[0], given.describe(images)[0])
        server.shutdown()


def test_without_its_weights_inception_is_not_measured_and_says_so(small_mnist, generator, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(feature_extractor_inceptionv3, "URL_INCEPTION_V3", "http://127.0.0.1:9/weights.pth")
    with pytest.warns(UserWarning, match="Inception metrics are not measured"):
        result = metrics.evaluate(generator, SMALL, inception="download", progress=False)
    assert "could not be downloaded" in result["not_measured"]["inception"]
    assert "fid_inception" not in result["final"]


def test_wrong_inception_weights_are_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing\.pth does not exist"):
        metrics.Inception(tmp_path / "nothing.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="does not hold torch-fidelity's InceptionV3"):
        metrics.Inception(tmp_path / "other.pth")
