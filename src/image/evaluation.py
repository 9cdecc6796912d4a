"""The evaluation protocol of generated digits: scores of a checkpoint, the full measurement, and that of `verify`."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import label
from torch import Tensor
from tqdm.auto import tqdm

from src import classifiers, files, metrics, paths, runtime
from src.config import IMAGE_PROFILES, INK, LATENT_STD, SAMPLE_GRID_SIDE, SPLITS, ClassifierConfig, EvaluationConfig
from src.errors import CheckpointError, DataError, DownloadError
from src.image import classifier, dcgan, generate
from src.image.data import Digits, load_mnist
from src.image.inception import Inception
from src.metric_tables import (
    CLASSIFICATION_ACCURACY,
    COMMONEST_DIGIT,
    COVERAGE,
    DENSITY,
    DIGIT_ACCURACY,
    FID,
    FID_INCEPTION,
    IMAGE_METRICS,
    INCEPTION_SCORE,
    INCEPTION_SCORE_INCEPTION,
    KID,
    KID_INCEPTION,
    PRECISION,
    RAREST_DIGIT,
    RECALL,
    SEVERAL_PARTS,
    Metric,
)

MEMORISATION_COUNT = 1000  # images whose nearest training digit is searched
GRID_SEED = 0  # seed of the sample grids
ALL_DIGITS = "0123456789"


class Scorer:
    """Scores generated digits against one set of real digits; the real set is described once.

    A conditional generator is asked for digits that are as frequent as in the training digits, as an unconditional one
    learns to draw them.
    """

    def __init__(self, real: Digits, train: Digits, config: EvaluationConfig):
        self.real = real
        self.training_labels = train.labels.cpu()
        self.config = config
        self.classifier = classifier.load_classifier()
        self.features, self.logits = classifier.describe(self.classifier, real.images)

    def score_checkpoint(self, model: dcgan.Generator) -> dict[str, float]:
        """FID and Inception Score of the images of the first seed, of latents as in training: the scores of a
        checkpoint."""
        return self.score(self.sample(model, self.config.count, self.config.seeds[0], latent_std=1.0)[0])

    def sample(
        self, model: dcgan.Generator, count: int, seed: int, latent_std: float = LATENT_STD
    ) -> tuple[Tensor, Tensor | None]:
        """Images to be scored, uint8 (count, 1, 28, 28), and the digits (count,) that were asked for, if any."""
        digits = generate.draw_digits(count, seed, self.training_labels) if model.classes else None
        return generate.sample(model, count, seed, digits, latent_std), digits

    def score(self, images: Tensor) -> dict[str, float]:
        """FID and Inception Score of uint8 images (count, 1, 28, 28)."""
        features, logits = classifier.describe(self.classifier, images)
        return {
            FID: metrics.frechet_distance(self.features, features),
            INCEPTION_SCORE: metrics.inception_score(logits, self.config.splits),
        }

    def score_all(self, images: Tensor, digits: Tensor | None = None) -> dict[str, float | list[float]]:
        """Every `mnist` metric of uint8 images (count, 1, 28, 28); with the `digits` (count,) that were asked for, also
        the share of images that the classifier reads as them."""
        features, logits = classifier.describe(self.classifier, images)
        precision, recall = metrics.precision_recall(self.features, features, self.config.neighbours)
        density, coverage = metrics.density_coverage(self.features, features, self.config.density_neighbours)
        shares = classifier.digit_shares(logits)
        return {
            **_three_scores((FID, KID, INCEPTION_SCORE), self.features, features, logits, self.config),
            PRECISION: precision,
            RECALL: recall,
            DENSITY: density,
            COVERAGE: coverage,
            **({} if digits is None else {DIGIT_ACCURACY: classifiers.accuracy(logits, digits)}),
            RAREST_DIGIT: min(shares),
            COMMONEST_DIGIT: max(shares),
            SEVERAL_PARTS: in_several_parts(images).double().mean().item(),
            "digit_shares": shares,
        }

    def save_examples(self, model: dcgan.Generator, run_paths: paths.ImagePaths, epoch: int) -> None:
        """Write the sample grid of a checkpoint: all digits in a row, each row from one latent. Every checkpoint shows
        the same latents."""
        if model.classes:
            images = generate.write_number(model, ALL_DIGITS, SAMPLE_GRID_SIDE, GRID_SEED)
        else:
            images = generate.sample(model, SAMPLE_GRID_SIDE**2, GRID_SEED)
        generate.save(images, run_paths.grid(epoch), columns=SAMPLE_GRID_SIDE)


def in_several_parts(images: Tensor) -> Tensor:
    """Which of uint8 images (count, 1, 28, 28) have ink in more than one connected part: bool (count,). Pixels that
    touch at a corner are connected."""
    return torch.tensor([label(image[0] > INK, structure=np.ones((3, 3)))[1] > 1 for image in images.cpu().numpy()])


def evaluate(
    model: dcgan.Generator, config: EvaluationConfig, inception: str | None = None, progress: bool = True
) -> dict:
    """Measure a generator against the test digits by the full protocol.

    `inception` requests the Inception metrics too: the path of the network's weights, or "download".

    Returns `protocol`; `final` (each metric's mean and standard deviation over seeds, and `real`, the same metric of
    validation digits; the Inception Score and the accuracy of the requested digit compare with nothing, so their
    `real` is that of the test digits); `fid_references` (FIDs of sets of real and generated digits, against the test
    and against the validation digits); `neighbours` (distances to the nearest training digit); and `not_measured`
    (reasons).

    Raises:
        CheckpointError: the file named by `inception` does not hold that network.
    """
    network, not_measured = _load_inception(inception)
    train, validation, test = (load_mnist(split) for split in SPLITS)
    held_out = _first(validation, config.count)
    scorer = Scorer(test, train, config)
    sets = [scorer.sample(model, config.count, seed) for seed in config.seeds]
    with tqdm(total=len(sets) + 3, desc="evaluate", unit="set", disable=not progress) as bar:
        final = _final_scores(sets, held_out, scorer, bar)
        if network:
            final |= _inception_metrics(network, [images for images, _ in sets], held_out.images, test.images, config)
        bar.update()
        references = _fid_references(model, [images for images, _ in sets], train, held_out, scorer)
        neighbours = _memorisation(sets[0][0], test, train)
        bar.update()
        if model.classes and config.classifier_epochs:
            final[CLASSIFICATION_ACCURACY] = _classification_accuracy(model, train, scorer)
        else:
            not_measured[CLASSIFICATION_ACCURACY] = "needs a generator that takes a digit, and the full profile"
        bar.update()
    return {
        "protocol": _describe_protocol(config, test, len(held_out)),
        "final": final,
        "fid_references": references,
        "neighbours": neighbours,
        "not_measured": not_measured,
    }


def remeasure(run_paths: paths.ImagePaths = paths.IMAGE) -> Iterator[tuple[str, float, float, float]]:
    """Measure the published generator again. Yields a metric's name, its recorded and its new value, and the allowed
    difference: one standard deviation over seeds.

    Raises:
        DataError: MNIST is not available.
    """
    recorded = files.load_json(run_paths.metrics)["final"]
    if not load_mnist("test").complete:
        raise DataError("the recorded numbers were measured on MNIST, which is not here: run python -m src data")
    config, model = IMAGE_PROFILES["full"][1], dcgan.load_model(run_paths.weights)
    train, validation, test = (load_mnist(split) for split in SPLITS)
    scorer = Scorer(test, train, config)
    with tqdm(total=len(config.seeds), desc="evaluate", unit="set") as bar:
        sets = (scorer.sample(model, config.count, seed) for seed in config.seeds)
        measured = _final_scores(sets, _first(validation, config.count), scorer, bar)
    for metric in IMAGE_METRICS:
        if metric in measured:  # not those that need a download or a training
            if metric not in recorded:
                raise CheckpointError(f"{paths.relative(run_paths.metrics)} lacks {metric}: run image evaluate")
            yield metric, recorded[metric]["mean"], measured[metric]["mean"], recorded[metric]["std"]


def _describe_protocol(config: EvaluationConfig, test: Digits, held_out: int) -> dict:
    return {
        "data": test.source,
        "reference": f"{len(test):,} test digits",
        "count": config.count,
        "seeds": list(config.seeds),
        "classifier_seeds": config.classifier_seeds,
        "latent_std": LATENT_STD,
        "real": f"{held_out:,} validation digits",
        "features_mnist": "reference classifier, 128-d penultimate layer",
        "features_inception": "torch-fidelity InceptionV3, 2048-d",
        "neighbours": config.neighbours,
        "splits": config.splits,
        "kid_subsets": [config.kid_subsets, config.kid_subset_size],
        "machine": runtime.describe_machine(),
    }


def _first(digits: Digits, count: int) -> Digits:
    return Digits(digits.images[:count], digits.labels[:count], digits.source)


def _final_scores(sets: Iterable[tuple[Tensor, Tensor | None]], held_out: Digits, scorer: Scorer, bar: tqdm) -> dict:
    """Each metric that needs no training: mean and standard deviation over the sets, and the value of real digits."""
    rows = []
    for images, digits in sets:
        rows.append(scorer.score_all(images, digits))
        bar.update()
    real = _score_real(held_out, scorer)
    return {name: _over_seeds([row[name] for row in rows], real[name]) for name in rows[0]}


def _score_real(held_out: Digits, scorer: Scorer) -> dict[str, float | list[float]]:
    """The reference value of each metric."""
    real = scorer.score_all(held_out.images)
    real[INCEPTION_SCORE] = metrics.inception_score(scorer.logits, scorer.config.splits)
    real[DIGIT_ACCURACY] = classifiers.accuracy(scorer.logits, scorer.real.labels)
    return real


def _three_scores(
    names: tuple[Metric, Metric, Metric], real: Tensor, fake: Tensor, logits: Tensor, config: EvaluationConfig
) -> dict[str, float]:
    """FID, KID and Inception Score of fakes, under the given names."""
    fid, kid, inception_score = names
    subset_size = min(config.kid_subset_size, len(fake), len(real))
    return {
        fid: metrics.frechet_distance(real, fake),
        kid: metrics.kid(real, fake, config.kid_subsets, subset_size),
        inception_score: metrics.inception_score(logits, config.splits),
    }


def _over_seeds(values: list, real: float | list[float]) -> dict:
    tensor = torch.tensor(values, dtype=torch.float64)  # (seeds,) or (seeds, digits)
    std = tensor.std(dim=0).tolist() if len(values) > 1 else None
    return {"mean": tensor.mean(dim=0).tolist(), "std": std, "real": real}


def _classification_accuracy(model: dcgan.Generator, train: Digits, scorer: Scorer) -> dict:
    """Accuracy on the real digits of classifiers that learned from generated digits only (Ravuri and Vinyals 2019),
    and, as `real`, of those that learned from as many training digits. Mean over the seeds of digits and trainings."""
    config, count = scorer.config, min(scorer.config.classifier_digits, len(train))
    accuracies, real = [], []
    for seed in config.seeds[: config.classifier_seeds]:
        settings = replace(ClassifierConfig(), epochs=config.classifier_epochs, seed=seed)
        generated = Digits(*scorer.sample(model, count, seed), "generated")
        for digits, results in ((generated, accuracies), (_first(train, count), real)):
            results.append(classifier.accuracy(classifier.train(settings, digits, progress=False), scorer.real))
    return _over_seeds(accuracies, sum(real) / len(real))


def _fid_references(
    model: dcgan.Generator, sets: list[Tensor], train: Digits, held_out: Digits, scorer: Scorer
) -> dict[str, dict[str, list[float]]]:
    """FIDs against the test and against the validation digits: of the sets of generated digits, as frequent as in the
    training digits; of those of a conditional generator, equally frequent; of as many random sets of training digits;
    and of the validation digits."""
    references = {"test": scorer.features, "validation": classifier.describe(scorer.classifier, held_out.images)[0]}

    def fids(images: Tensor) -> dict[str, float]:
        features = classifier.describe(scorer.classifier, images)[0]
        return {name: metrics.frechet_distance(reference, features) for name, reference in references.items()}

    rows = {"random_training": [], "generated": [], **({"generated_equally": []} if model.classes else {})}
    for images, seed in zip(sets, scorer.config.seeds, strict=True):
        chosen = torch.randperm(len(train), generator=runtime.random_stream(seed))[: len(images)]
        rows["random_training"].append(fids(train.images[chosen]))
        rows["generated"].append(fids(images))
        if model.classes:
            rows["generated_equally"].append(fids(generate.sample(model, len(images), seed)))
    columns = {name: {of: [row[of] for row in found] for of in references} for name, found in rows.items()}
    of_validation = metrics.frechet_distance(references["test"], references["validation"])
    return columns | {"validation": {"test": [of_validation]}}


def _memorisation(generated: Tensor, test: Digits, train: Digits) -> dict:
    """Distance to the nearest training digit, of generated and of test digits: median and 1st percentile. Copies would
    show in the latter."""
    count = min(MEMORISATION_COUNT, len(generated), len(test))
    result = {"count": count}
    order = torch.randperm(len(test), generator=runtime.random_stream(0))  # that of MNIST is not random
    for name, images in (("generated", generated), ("test", test.images[order])):
        _, distances = metrics.nearest_neighbours(images[:count], train.images)
        result[f"median_distance_{name}"] = distances.median().item()
        result[f"percentile_1_distance_{name}"] = distances.quantile(0.01).item()
    return result


def _load_inception(inception: str | None) -> tuple[Inception | None, dict[str, str]]:
    if inception is None:
        return None, {"inception": "needs a download: python -m src image evaluate --inception"}
    try:
        return Inception(None if inception == "download" else Path(inception)), {}
    except DownloadError as error:
        warnings.warn(
            f"Inception metrics are not measured: its weights could not be downloaded ({error})", stacklevel=3
        )
        return None, {"inception": f"its weights could not be downloaded: {error}"}


def _inception_metrics(
    network: Inception, sets: list[Tensor], held_out: Tensor, test: Tensor, config: EvaluationConfig
) -> dict:
    names = (FID_INCEPTION, KID_INCEPTION, INCEPTION_SCORE_INCEPTION)
    test_features, test_logits = network.describe(test)
    rows = [_three_scores(names, test_features, *network.describe(images), config) for images in sets]
    real = _three_scores(names, test_features, *network.describe(held_out), config)
    real[INCEPTION_SCORE_INCEPTION] = metrics.inception_score(test_logits, config.splits)
    return {name: _over_seeds([row[name] for row in rows], real[name]) for name in names}
