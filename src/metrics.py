"""Metrics of feature sets: pure functions of the features (count, features) or logits (count, classes) of a network.

Both halves use them, each with the features of its own reference classifier.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from src import runtime

ROWS = 1000  # points whose distances to all others are in memory at once
# Only rank 0 scores a checkpoint: torchmetrics would wait for the other processes.
ALONE = {"sync_on_compute": False}


class PrecomputedFeatures(nn.Module):
    """Identity, so that torchmetrics accepts features (count, `num_features`) instead of images."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        """Return `features`."""
        return features


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Frechet distance of two feature sets (count, features), each taken as a Gaussian; 0 is best. FID, if the
    features are those of images (Heusel et al. 2017, eq. 6); FAD, if they are those of audio (Kilgour et al. 2019).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), in float64.

    Raises:
        ValueError: shapes that do not fit, fewer than 2 rows, or values that are not finite.
    """
    _check_pair(real, fake)
    metric = FrechetInceptionDistance(PrecomputedFeatures(real.shape[1]), **ALONE).set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    return metric.compute().item()


def kid(real: Tensor, fake: Tensor, subsets: int, subset_size: int, seed: int = 0) -> float:
    """Kernel distance of two feature sets (count, features): squared MMD with the kernel (x y / features + 1)^3, mean
    over random subsets (Binkowski et al. 2018).

    The estimate is unbiased: equal distributions give values around 0, also negative ones.

    Raises:
        ValueError: shapes that do not fit, fewer rows than a subset, or values that are not finite.
    """
    _check_pair(real, fake, least=subset_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchmetrics says that it keeps all features in memory
        metric = KernelInceptionDistance(
            PrecomputedFeatures(real.shape[1]), subsets=subsets, subset_size=subset_size, **ALONE
        )
    metric.set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    return _seeded(metric.compute, seed)[0].item()


def inception_score(logits: Tensor, splits: int, seed: int = 0) -> float:
    """exp E KL(p(y|x) || p(y)) of logits (count, classes), mean over random splits; from 1 to the number of classes
    (Salimans et al. 2016).

    Raises:
        ValueError: another shape, fewer rows than splits, or values that are not finite.
    """
    if logits.ndim != 2 or len(logits) < splits:
        raise ValueError(f"logits have shape {tuple(logits.shape)}: expected (count, classes), count >= {splits}")
    if not torch.isfinite(logits).all():
        raise ValueError("the logits have values that are not finite")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchmetrics says that it keeps all logits in memory
        metric = InceptionScore(PrecomputedFeatures(logits.shape[1]), splits=splits, **ALONE)
    metric.update(logits.double())
    return _seeded(metric.compute, seed)[0].item()


def _seeded(compute: Callable[[], tuple[Tensor, Tensor]], seed: int) -> tuple[Tensor, Tensor]:
    """Call `compute`, which draws from torch's global random state, with a fixed seed; then restore the state."""
    with runtime.seeded(seed):
        return compute()


def precision_recall(real: Tensor, fake: Tensor, neighbours: int) -> tuple[float, float]:
    """Share of the fakes inside the real manifold, and of the reals inside the fake manifold; both from 0 to 1.

    A set's manifold is the union of balls around its points; each ball reaches to the point's k-th nearest neighbour in
    the set, k = `neighbours` (Kynkaanniemi et al. 2019, eq. 1 and 2).

    Raises:
        ValueError: shapes that do not fit, `neighbours` rows or fewer, or values that are not finite.
    """
    _check_pair(real, fake, least=neighbours + 1)
    return _covered_share(fake, real, neighbours), _covered_share(real, fake, neighbours)


def density_coverage(real: Tensor, fake: Tensor, neighbours: int) -> tuple[float, float]:
    """Density and coverage of the fakes (Naeem et al. 2020, eq. 3 and 4), by balls around the reals; each ball reaches
    to its centre's k-th nearest real, k = `neighbours`.

    Density: number of balls that hold a fake, mean over the fakes, divided by k; about 1 for equal distributions, more
    if the fakes lie where reals are dense. Coverage: share of the balls that hold a fake, from 0 to 1.

    Raises:
        ValueError: shapes that do not fit, `neighbours` rows or fewer, or values that are not finite.
    """
    _check_pair(real, fake, least=neighbours + 1)
    radii = _radii(real, neighbours)
    held, covered = 0.0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for part in fake.split(ROWS):
        inside = torch.cdist(part, real) <= radii  # (rows, reals)
        held += inside.double().sum().item()
        covered |= inside.any(dim=0)
    return held / (neighbours * len(fake)), covered.double().mean().item()


def _covered_share(points: Tensor, centres: Tensor, neighbours: int) -> float:
    """Share of `points` inside the manifold of `centres`."""
    radii = _radii(centres, neighbours)
    inside = [(torch.cdist(part, centres) <= radii).any(dim=1) for part in points.split(ROWS)]
    return torch.cat(inside).double().mean().item()


def _radii(points: Tensor, neighbours: int) -> Tensor:
    """Distance (count,) of each point to its k-th nearest neighbour among the others."""
    # A point is its own nearest neighbour, hence the k + 1.
    return torch.cat([torch.cdist(part, points).kthvalue(neighbours + 1).values for part in points.split(ROWS)])


def nearest_neighbours(queries: Tensor, candidates: Tensor, rows: int = 500) -> tuple[Tensor, Tensor]:
    """For each of `queries` (count, ...), the index of the closest of `candidates` (count', ...), and their
    root-mean-square difference over all elements, in the unit of the input."""
    flat = candidates.flatten(1).float()
    found = [torch.cdist(part.flatten(1).float(), flat).min(dim=1) for part in queries.split(rows)]
    distances = torch.cat([part.values for part in found]) / flat.shape[1] ** 0.5
    return torch.cat([part.indices for part in found]), distances


def _check_pair(real: Tensor, fake: Tensor, least: int = 2) -> None:
    for name, features in (("real", real), ("fake", fake)):
        if features.ndim != 2 or len(features) < least:
            raise ValueError(f"{name} has shape {tuple(features.shape)}: expected (count, features), count >= {least}")
        if not torch.isfinite(features).all():
            raise ValueError(f"{name} holds values that are not finite")
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"real has {real.shape[1]} features, fake {fake.shape[1]}: they must agree")
