"""The comparisons run, count right, and train what they say."""

import pytest
import torch

from src.config import EvaluationConfig, ImageConfig
from src.image import benchmark, dcgan

SMALL = ImageConfig(latent_dim=8, generator_width=4, discriminator_width=4, batch_size=16, r1_interval=16)


class Counting:
    """Each step takes a second of a clock of its own, each scoring a minute."""

    batch_size = 10

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(benchmark.time, "perf_counter", lambda: self.now)

    def step(self):
        self.now += 1.0

    def sample(self, count, seed):
        self.now += 60.0
        return (count, seed)


class Scorer:
    config = EvaluationConfig(count=5, seeds=(3,))

    def score(self, images):
        return {"fid_mnist": float(images == (5, 3))}


def every_3_steps(images_seen, seconds):
    return images_seen % 30 == 0


def test_scoring_takes_none_of_the_training_time(monkeypatch):
    network = Counting(monkeypatch)
    rows = benchmark.follow(network, Scorer(), every_3_steps, lambda _, seconds: seconds >= 7.5, "x", progress=False)
    assert [row["seconds"] for row in rows] == [3.0, 6.0, 8.0]
    assert [row["images_seen"] for row in rows] == [30, 60, 80]
    assert all(row["fid_mnist"] == 1.0 for row in rows)


def test_training_ends_at_the_score_that_was_wanted(monkeypatch):
    network = Counting(monkeypatch)
    rows = benchmark.follow(network, Scorer(), every_3_steps, lambda *_: False, "x", until=1.0, progress=False)
    assert [row["seconds"] for row in rows] == [3.0]


def test_the_ablation_trains_each_variant_with_each_seed(small_config, blobs, monkeypatch):
    monkeypatch.setattr(benchmark, "VARIANTS", {"default": {}, "unconditional": {"classes": 0}})
    monkeypatch.setattr(benchmark, "ImageConfig", lambda: SMALL)
    monkeypatch.setattr(benchmark, "load_mnist", lambda split: blobs)
    monkeypatch.setattr(benchmark, "SCORE_EVERY_STEPS", 2)
    monkeypatch.setattr(benchmark, "MOST_IMAGES_TO_FID_1", 5 * SMALL.batch_size)
    protocol = EvaluationConfig(count=40, seeds=(1,), splits=2)
    monkeypatch.setitem(benchmark.IMAGE_PROFILES, "full", (SMALL, protocol))
    parts = []

    def keep(name, function, *arguments):
        parts.append(name)
        return function(*arguments)

    result = benchmark.ablate(4 * SMALL.batch_size, keep, progress=False)
    assert [row["variant"] for row in result["rows"]] == ["default", "unconditional"]
    assert all(len(row["runs"]) == 3 and row["runs"][0]["scores"] for row in result["rows"])
    seen = [score["images_seen"] for score in result["rows"][0]["runs"][0]["scores"]]
    assert seen == [2 * SMALL.batch_size, 4 * SMALL.batch_size]
    assert len(parts) == len(set(parts)) == 12
    assert result["images_to_fid_1"] == {"default": [None] * 3, "unconditional": [None] * 3}


def test_the_comparison_scores_every_two_minutes_and_at_60_000_images():
    due = benchmark._every_two_minutes_and_at_60_000_images()
    images_per_second = 250
    scored = [second for second in range(1, 500) if due(second * images_per_second, second)]
    assert scored == [120, 240, 360, 480] and 240 * images_per_second == 60_000
    due = benchmark._every_two_minutes_and_at_60_000_images()
    assert [second for second in range(1, 300) if due(second * 1000, second)] == [60, 120, 240]


def test_a_network_that_is_followed_goes_through_epochs(small_config, blobs):
    scorer = benchmark.evaluation.Scorer(blobs, blobs, EvaluationConfig(count=40, seeds=(1,), splits=2))
    network = benchmark.OwnDCGAN(small_config, blobs, scorer)
    for _ in range(9):  # 4 steps an epoch
        network.step()
    assert (network.run.step, network.run.epoch) == (9, 2)
    assert torch.equal(network.sample(3, seed=1), scorer.sample(network.run.average, 3, 1, latent_std=1.0)[0])


def test_the_operations_of_a_step_are_counted(blobs, monkeypatch):
    monkeypatch.setattr(benchmark, "TIMING_REPEATS", 2)
    monkeypatch.setattr(benchmark, "ImageConfig", lambda: SMALL)
    measured = benchmark.time_training(blobs, steps=2)
    # By hand, in multiply-adds of one image: the generator's forward pass; and the
    # discriminator's. Backward costs twice as much, but for the first layers, whose input needs no gradient.
    width = 4
    project = (8 + 10) * 8 * width * 16
    rest = 16 * 9 * 8 * 4 * width**2 + 49 * 16 * 4 * 2 * width**2 + 196 * 16 * 2 * width
    first, last = 196 * 16 * width, 9 * 4 * width * 11
    middle = 49 * 16 * 2 * width**2 + 9 * 16 * 8 * width**2
    generator = 3 * (project + rest) - project
    discriminator = 3 * (first + middle + last) * 2 - 2 * first + 2 * (first + middle + last)
    assert measured["gflop_per_image"] * 1e9 == pytest.approx(2 * (generator + discriminator), rel=0.01)
    assert measured["images_per_second"] > 0 and 0 < measured["share_of_peak"] < 1


def test_tutorial_dcgan_has_the_tutorials_size_and_trains(blobs):
    tutorial = benchmark.PyTorchTutorial(blobs)
    tutorial.batch_size = 4
    # By hand, with one colour channel: inputs x outputs x 4 x 4 of each layer, and 2 per batch-norm channel.
    convolutions = (100 * 512 + 512 * 256 + 256 * 128 + 128 * 64 + 64) * 16
    assert sum(p.numel() for p in tutorial.generator.parameters()) == convolutions + 2 * (512 + 256 + 128 + 64)
    convolutions = (64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) * 16
    assert sum(p.numel() for p in tutorial.discriminator.parameters()) == convolutions + 2 * (128 + 256 + 512)
    assert tutorial.discriminator(tutorial.generator(torch.randn(3, 100))).shape == (3,)


def test_tensorflows_dcgan_has_its_tutorials_size(blobs):
    tutorial = benchmark.TensorFlowTutorial(blobs)
    # By hand: dense layer, 5x5 kernels, 2 for each batch-norm channel; and biases in the discriminator.
    weights = 100 * 12_544 + 25 * (256 * 128 + 128 * 64 + 64) + 2 * (12_544 + 128 + 64)
    assert sum(p.numel() for p in tutorial.generator.parameters()) == weights
    weights = 25 * (64 + 64 * 128) + 64 + 128 + 49 * 128 + 1
    assert sum(p.numel() for p in tutorial.discriminator.parameters()) == weights
    assert tutorial.generator(torch.randn(3, 100)).shape == (3, 1, 28, 28)
    assert tutorial.discriminator(torch.randn(3, 1, 28, 28)).shape == (3,)


@pytest.mark.parametrize("kind", [benchmark.PyTorchTutorial, benchmark.TensorFlowTutorial])
def test_a_tutorials_dcgan_trains_and_draws(blobs, kind):
    tutorial = kind(blobs)
    tutorial.batch_size = 4
    before = [p.clone() for p in (*tutorial.generator.parameters(), *tutorial.discriminator.parameters())]
    tutorial.step()
    after = [*tutorial.generator.parameters(), *tutorial.discriminator.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    images = tutorial.sample(6, seed=1)
    assert images.shape == (6, 1, 28, 28)
    assert images.dtype == torch.uint8


def test_inference_times_are_positive(monkeypatch):
    monkeypatch.setattr(benchmark, "TIMING_REPEATS", 2)
    generator = dcgan.build_generator(SMALL).eval()
    assert all(seconds > 0 for seconds in benchmark.time_inference(generator).values())


@pytest.mark.parametrize("name", benchmark.VARIANTS)
def test_every_variant_is_a_valid_configuration(name):
    config = ImageConfig(**benchmark.VARIANTS[name])
    assert (config == ImageConfig()) == (name == "default")


@pytest.mark.parametrize("tutorial", [benchmark.PyTorchTutorial, benchmark.TensorFlowTutorial])
def test_samples_of_a_tutorials_dcgan_do_not_change_its_training(blobs, tutorial):
    one, other = (tutorial(blobs) for _ in range(2))
    one.sample(2, seed=3)
    assert one.generator.training
    assert torch.equal(one._latents(4, one.stream), other._latents(4, other.stream))
