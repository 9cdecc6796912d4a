"""Metrics of feature sets against closed forms, independent implementations and invalid input."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from src import metrics


def gaussian(count: int, mean: np.ndarray, covariance: np.ndarray, seed: int = 0) -> torch.Tensor:
    """A sample moved and stretched to have exactly this mean and (unbiased) covariance."""
    raw = np.random.default_rng(seed).standard_normal((count, len(mean)))
    raw -= raw.mean(0)
    whitened = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T))).T
    return torch.from_numpy(whitened @ np.linalg.cholesky(covariance).T + mean)


# --- Fréchet distance ---


def test_frechet_distance_of_two_gaussians_with_diagonal_covariances_is_the_closed_form():
    first = gaussian(500, np.array([0.0, 0.0, 0.0]), np.diag([1.0, 4.0, 9.0]))
    second = gaussian(400, np.array([1.0, 2.0, 0.0]), np.diag([4.0, 1.0, 9.0]), seed=1)
    # |m1 - m2|^2 + sum (s1 - s2)^2 = 5 + (1 + 1 + 0)
    assert metrics.frechet_distance(first, second) == pytest.approx(7.0, abs=1e-6)


def test_frechet_distance_agrees_with_the_matrix_square_root():
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(300, 6)) ** 3, generator.gamma(2.0, size=(200, 6))
    difference = first.mean(0) - second.mean(0)
    covariances = np.cov(first.T), np.cov(second.T)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = difference @ difference + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert metrics.frechet_distance(torch.from_numpy(first), torch.from_numpy(second)) == pytest.approx(
        expected, rel=1e-6
    )


def test_frechet_distance_of_a_set_with_itself_is_zero_and_it_is_symmetric():
    first, second = torch.randn(200, 5), torch.randn(200, 5) * 2
    assert metrics.frechet_distance(first, first) == pytest.approx(0, abs=1e-6)
    assert metrics.frechet_distance(first, second) == pytest.approx(metrics.frechet_distance(second, first), rel=1e-9)


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
        metrics.frechet_distance(real, fake)


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


# --- precision, recall, neighbours ---


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


def test_nearest_neighbour_of_a_training_image_is_itself():
    training = torch.randint(0, 256, (20, 1, 28, 28), dtype=torch.uint8)
    indices, distances = metrics.nearest_neighbours(training[[7, 3]], training)
    assert indices.tolist() == [7, 3]
    assert distances.tolist() == pytest.approx([0, 0], abs=0.05)


def test_neighbour_distance_is_root_mean_square_in_grey_levels():
    black, grey = torch.zeros(1, 1, 28, 28, dtype=torch.uint8), torch.full((1, 1, 28, 28), 100, dtype=torch.uint8)
    assert metrics.nearest_neighbours(grey, black)[1].item() == pytest.approx(100)


def test_neighbours_are_found_for_rows_of_any_shape():
    queries, candidates = torch.randn(7, 5), torch.randn(30, 5)
    indices, distances = metrics.nearest_neighbours(queries, candidates, rows=3)
    expected = (queries[:, None] - candidates).square().mean(2).sqrt()
    assert torch.equal(indices, expected.argmin(1))
    torch.testing.assert_close(distances, expected.amin(1), rtol=1e-4, atol=1e-5)


def test_logits_that_are_not_finite_are_refused():
    logits = torch.zeros(10, 3)
    logits[2, 1] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        metrics.inception_score(logits, splits=2)


def test_density_and_coverage_of_equal_sets_are_their_closed_forms():
    points = torch.randn(50, 4)
    # Each ball holds its centre and its k nearest neighbours.
    assert metrics.density_coverage(points, points.clone(), 5) == (pytest.approx(6 / 5), 1.0)


def test_density_and_coverage_on_a_line_are_as_counted_by_hand():
    real = torch.tensor([[0.0], [1.0], [3.0]])  # radii for k = 1: 1, 1, 2
    fake = torch.tensor([[0.5], [0.6], [10.0], [4.5]])  # in 2, 2, 0 and 1 balls
    assert metrics.density_coverage(real, fake, 1) == (5 / 4, 1.0)
    assert metrics.density_coverage(real, fake + 100, 1) == (0.0, 0.0)
    assert metrics.density_coverage(real, torch.full((4, 1), -0.5), 1) == (1.0, 1 / 3)


def test_density_and_coverage_are_those_of_a_plain_loop(monkeypatch):
    monkeypatch.setattr(metrics, "ROWS", 7)  # several parts
    real, fake = torch.randn(40, 3), torch.randn(30, 3) * 1.5
    radii = [sorted(math.dist(a, b) for b in real.tolist())[4] for a in real.tolist()]
    inside = [
        [math.dist(a, b) <= radius for b in fake.tolist()] for a, radius in zip(real.tolist(), radii, strict=True)
    ]
    density = sum(map(sum, inside)) / (4 * 30)
    assert metrics.density_coverage(real, fake, 4) == pytest.approx((density, sum(map(any, inside)) / 40))
