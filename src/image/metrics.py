"""What generated digits are judged by: pure functions of features and logits, and the protocol that applies them.

Feature networks are named beside every number. `mnist` is the reference classifier (`classifier.py`); `inception` is
torch-fidelity's InceptionV3, for comparison with the literature.
"""

import socket
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance
from tqdm.auto import tqdm

from src import checkpoints, runtime
from src.config import EvaluationConfig
from src.image import classifier as reference
from src.image import generate
from src.image.data import SPLITS, TIMEOUT, Digits, load_mnist
from src.image.dcgan import Generator


class _Given(nn.Module):
    """Stands where torchmetrics expects a feature network, and hands on features computed once beforehand."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def _check_pair(real: Tensor, fake: Tensor, least: int = 2) -> None:
    for name, features in (("real", real), ("fake", fake)):
        if features.ndim != 2 or len(features) < least:
            raise ValueError(f"{name} has shape {tuple(features.shape)}: expected (count, features), count >= {least}")
        if not torch.isfinite(features).all():
            raise ValueError(f"{name} holds values that are not finite")
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"real has {real.shape[1]} features, fake {fake.shape[1]}: they must agree")


def fid(real: Tensor, fake: Tensor) -> float:
    """Frechet distance of two feature sets (count, features), each seen as a Gaussian; 0 is best.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), in float64 (Heusel et al. 2017, eq. 6).
    """
    _check_pair(real, fake)
    metric = FrechetInceptionDistance(_Given(real.shape[1])).set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    return metric.compute().item()


def kid(real: Tensor, fake: Tensor, subsets: int, subset_size: int, seed: int = 0) -> float:
    """Kernel distance: squared MMD with the kernel (x y / features + 1)^3, mean over subsets (Binkowski et al. 2018).

    Unbiased, so values around 0, also below, mean equal distributions.
    """
    _check_pair(real, fake, least=subset_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it keeps all features in memory
        metric = KernelInceptionDistance(_Given(real.shape[1]), subsets=subsets, subset_size=subset_size)
    metric.set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    return _seeded(metric.compute, seed)[0].item()


def inception_score(logits: Tensor, splits: int, seed: int = 0) -> float:
    """exp E KL(p(y|x) || p(y)) of logits (count, classes), mean over splits; from 1 to the number of classes
    (Salimans et al. 2016)."""
    if logits.ndim != 2 or len(logits) < splits:
        raise ValueError(f"logits have shape {tuple(logits.shape)}: expected (count, classes), count >= {splits}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it keeps all logits in memory
        metric = InceptionScore(_Given(logits.shape[1]), splits=splits)
    metric.update(logits.double())
    return _seeded(metric.compute, seed)[0].item()


def _seeded(compute: Callable[[], tuple[Tensor, Tensor]], seed: int) -> tuple[Tensor, Tensor]:
    """torchmetrics draws subsets from the global random state: give it a fixed one, then the caller's back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return compute()


def precision_recall(real: Tensor, fake: Tensor, neighbours: int) -> tuple[float, float]:
    """Share of fakes within the real manifold, and of reals within the fake one; both from 0 to 1.

    A set's manifold is the union of balls around its points, each reaching to the point's k-th nearest neighbour in the
    set (Kynkaanniemi et al. 2019, eq. 1 and 2).
    """
    _check_pair(real, fake, least=neighbours + 1)
    return _covered(fake, real, neighbours), _covered(real, fake, neighbours)


def _covered(points: Tensor, centres: Tensor, neighbours: int, rows: int = 1000) -> float:
    # Each point is its own nearest neighbour, hence the k + 1.
    radii = [torch.cdist(part, centres).kthvalue(neighbours + 1).values for part in centres.split(rows)]
    radii = torch.cat(radii)
    inside = [(torch.cdist(part, centres) <= radii).any(dim=1) for part in points.split(rows)]
    return torch.cat(inside).double().mean().item()


def digit_shares(logits: Tensor) -> list[float]:
    """Share of the images that read as 0, 1, ... 9 (largest logit)."""
    return (logits.argmax(1).bincount(minlength=logits.shape[1]) / len(logits)).tolist()


def nearest_neighbours(images: Tensor, training: Tensor, rows: int = 500) -> tuple[Tensor, Tensor]:
    """For each of uint8 images (count, 1, 28, 28): index of the closest training image, and its root-mean-square
    distance in grey levels (0 to 255)."""
    known = training.flatten(1).float()
    found = [torch.cdist(part.flatten(1).float(), known).min(dim=1) for part in images.split(rows)]
    distances = torch.cat([part.values for part in found]) / known.shape[1] ** 0.5
    return torch.cat([part.indices for part in found]), distances


class Judge:
    """Scores generated digits against one real set; what depends on the real set alone is computed once."""

    def __init__(self, real: Digits, config: EvaluationConfig):
        self.real = real
        self.config = config
        self.classifier = reference.load_classifier()
        self.features, self.logits = reference.describe(self.classifier, real.images)

    def rank(self, generator: Generator) -> dict[str, float]:
        """FID and Inception Score of one seed's images: what a checkpoint is ranked by."""
        return self.quick(generate.sample(generator, self.config.count, self.config.seeds[0]))

    def quick(self, images: Tensor) -> dict[str, float]:
        """FID and Inception Score of uint8 images (count, 1, 28, 28)."""
        features, logits = reference.describe(self.classifier, images)
        return {
            "fid_mnist": fid(self.features, features),
            "inception_score_mnist": inception_score(logits, self.config.splits),
        }

    def full(self, images: Tensor) -> dict[str, float | list[float]]:
        """Every `mnist` metric of uint8 images (count, 1, 28, 28)."""
        features, logits = reference.describe(self.classifier, images)
        precision, recall = precision_recall(self.features, features, self.config.neighbours)
        shares = digit_shares(logits)
        return {
            **_three_scores("mnist", self.features, features, logits, self.config),
            "precision_mnist": precision,
            "recall_mnist": recall,
            "smallest_digit_share": min(shares),
            "largest_digit_share": max(shares),
            "digit_shares": shares,
        }


class Inception:
    """torch-fidelity's InceptionV3, ported from the network that defined FID: 2048-d features and 1008 logits.

    `weights` is a file of them; None downloads it (about 90 MB).

    Raises:
        CheckpointError: where `weights` is missing, damaged or of another network.
        OSError: where the download fails.
    """

    def __init__(self, weights: Path | None = None):
        if weights:
            checkpoints.load_state(weights)  # refuses code that the file may carry; torch-fidelity would run it
        previous = socket.getdefaulttimeout()
        socket.setdefaulttimeout(TIMEOUT)
        try:
            names = ["2048", "logits_unbiased"]
            self.network = NoTrainInceptionV3("inception-v3-compat", names, str(weights) if weights else None)
        except RuntimeError as error:
            source = weights or f"the file downloaded to {torch.hub.get_dir()}/checkpoints"
            raise checkpoints.CheckpointError(f"{source} does not hold torch-fidelity's InceptionV3") from error
        finally:
            socket.setdefaulttimeout(previous)
        self.network.to(runtime.device())

    @torch.inference_mode()
    def describe(self, images: Tensor, batch_size: int = 50) -> tuple[Tensor, Tensor]:
        """Features (count, 2048) and logits (count, 1008) of uint8 images (count, 1, 28, 28)."""
        parts = []
        for batch in tqdm(images.split(batch_size), desc="Inception", leave=False):
            colour = batch.expand(-1, 3, -1, -1).to(runtime.device())
            # The method that returns all named outputs; forward() keeps the first alone.
            parts.append([output.cpu() for output in self.network._torch_fidelity_forward(colour)])
        features, logits = (torch.cat(column) for column in zip(*parts, strict=True))
        return features, logits


def evaluate(
    generator: Generator,
    config: EvaluationConfig,
    inception: str | None = None,
    progress: bool = True,
) -> dict:
    """Judge a generator against the test digits, by the whole protocol.

    `inception` asks for the Inception metrics too: the path of the network's weights, or "download".

    Returns `protocol`, `final` (for each metric: mean and standard deviation over seeds, and `real`, the same metric of
    held-out training digits; of an Inception Score, which compares with nothing, that of the test digits) and
    `neighbours`. A metric that could not be measured says why under `not_measured`.

    Raises:
        CheckpointError: where `inception` names no weights of that network.
    """
    network, not_measured = _find_inception(inception)
    train, validation, test = (load_mnist(split) for split in SPLITS)
    judge = Judge(test, config)
    bar = tqdm(total=len(config.seeds) + 2, desc="evaluate", unit="set", disable=not progress)
    sets = {seed: generate.sample(generator, config.count, seed) for seed in config.seeds}
    rows = []
    for images in sets.values():
        rows.append(judge.full(images))
        bar.update()
    real = judge.full(validation.images[: config.count])
    real["inception_score_mnist"] = inception_score(judge.logits, config.splits)
    bar.update()
    final = {name: _over_seeds([row[name] for row in rows], real[name]) for name in rows[0]}
    neighbours = _memorisation(sets[config.seeds[0]], test, train)
    bar.update()
    bar.close()
    if network:
        final |= _inception_metrics(network, sets, validation.images[: config.count], test.images, config)
    return {
        "protocol": {
            "data": test.source,
            "reference": f"{len(test):,} test digits",
            "count": config.count,
            "seeds": list(config.seeds),
            "real": f"{min(config.count, len(validation)):,} official training digits held out of all training",
            "features_mnist": "reference classifier, 128-d penultimate layer",
            "features_inception": "torch-fidelity InceptionV3, 2048-d",
            "neighbours": config.neighbours,
            "splits": config.splits,
            "kid_subsets": [config.kid_subsets, config.kid_subset_size],
            "machine": runtime.describe(),
        },
        "final": final,
        "neighbours": neighbours,
        "not_measured": not_measured,
    }


def _three_scores(
    network: str, real: Tensor, fake: Tensor, logits: Tensor, config: EvaluationConfig
) -> dict[str, float]:
    """FID, KID and Inception Score of fakes under the name of the network that gave features and logits."""
    subset_size = min(config.kid_subset_size, len(fake), len(real))
    return {
        f"fid_{network}": fid(real, fake),
        f"kid_{network}": kid(real, fake, config.kid_subsets, subset_size),
        f"inception_score_{network}": inception_score(logits, config.splits),
    }


def _find_inception(inception: str | None) -> tuple[Inception | None, dict[str, str]]:
    if inception is None:
        return None, {"inception": "needs a download: python -m src image evaluate --inception"}
    try:
        return Inception(None if inception == "download" else Path(inception)), {}
    except OSError as error:
        warnings.warn(
            f"Inception metrics are not measured: its weights could not be downloaded ({error})", stacklevel=3
        )
        return None, {"inception": f"its weights could not be downloaded: {error}"}


def _over_seeds(values: list, real: float | list[float]) -> dict:
    tensor = torch.tensor(values, dtype=torch.float64)  # (seeds,) or (seeds, digits)
    std = tensor.std(dim=0).tolist() if len(values) > 1 else None
    return {"mean": tensor.mean(dim=0).tolist(), "std": std, "real": real}


def _memorisation(generated: Tensor, test: Digits, train: Digits, count: int = 1000) -> dict:
    """Median distance to the closest training digit, for generated and for test digits: memorising would shrink it."""
    _, of_generated = nearest_neighbours(generated[:count], train.images)
    _, of_test = nearest_neighbours(test.images[:count], train.images)
    return {
        "count": min(count, len(generated), len(test)),
        "median_distance_generated": of_generated.median().item(),
        "median_distance_test": of_test.median().item(),
    }


def _inception_metrics(
    network: Inception, sets: dict[int, Tensor], held_out: Tensor, test: Tensor, config: EvaluationConfig
) -> dict:
    reference_features, test_logits = network.describe(test)

    def score(images: Tensor) -> dict[str, float]:
        return _three_scores("inception", reference_features, *network.describe(images), config)

    rows, real = [score(images) for images in sets.values()], score(held_out)
    final = {name: _over_seeds([row[name] for row in rows], real[name]) for name in real}
    final["inception_score_inception"]["real"] = inception_score(test_logits, config.splits)
    return final
