"""Timings of the DCGAN, and its comparison with two tutorials' DCGANs and with its own variants (the ablation)."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from src import files, runtime
from src.config import EQUAL_IMAGES, IMAGE_PROFILES, ImageConfig
from src.image import dcgan, evaluation, generate, training
from src.image.data import Digits, load_mnist, to_pixels, to_unit_range
from src.metric_tables import FID

SCORE_EVERY_SECONDS = 120
SCORE_EVERY_STEPS = 500
ABLATION_SEEDS = (0, 1, 2)
MOST_IMAGES_TO_FID_1 = 1_280_000
TIMING_REPEATS = 30
When = Callable[[int, float], bool]  # of the training images seen and the seconds of training

VARIANTS: dict[str, dict] = {
    "default": {},
    "unconditional": {"classes": 0},
    "deep: 4 and 4 hidden convolutions, not 3 and 3": {"generator_depth": 4, "discriminator_depth": 4},
    "a hidden layer at 28x28": {"generator_output": "convolution"},
    "ten times the gradient penalty": {"r1_weight": 10 * ImageConfig().r1_weight},
    "no gradient penalty": {"r1_weight": 0.0},
    "no batch norm in the discriminator": {"discriminator_norm": "none"},
}


class Trainable(Protocol):
    """A network that can be followed while it trains."""

    batch_size: int

    def step(self) -> None:
        """One update of the discriminator and of the generator."""

    def sample(self, count: int, seed: int) -> Tensor:
        """Generate uint8 (count, 1, 28, 28)."""


def compare(minutes: float, keep: files.Keep = files.compute, progress: bool = True) -> dict:
    """Time the published generator and a training step; then train three DCGANs for `minutes` each: this one and those
    of two tutorials.

    Returns `protocol`, `inference` (seconds per image), `training_step` (images per second, share of the machine's
    peak) and `training`: for each of the three, its scores on the validation digits every two minutes, and once when it
    has seen 60,000 images. Scoring takes none of the minutes. `keep` is called for each part.
    """
    digits = load_mnist("train").to(runtime.device())
    scorer = evaluation.Scorer(load_mnist("validation"), digits, IMAGE_PROFILES["full"][1])
    networks = {
        "this DCGAN, 28x28": lambda: OwnDCGAN(ImageConfig(), digits, scorer),
        "TensorFlow's tutorial, 28x28": lambda: TensorFlowTutorial(digits),
        "PyTorch's tutorial, 64x64": lambda: PyTorchTutorial(digits),
    }

    def train(name: str) -> list[dict]:
        due = _every_two_minutes_and_at_60_000_images()
        end = lambda _, seconds: seconds >= minutes * 60  # noqa: E731
        return follow(networks[name](), scorer, due, end, name, progress=progress)

    return {
        "protocol": {
            "minutes": minutes,
            "data": digits.source,
            "images_scored": scorer.config.count,
            "scored_on": "validation",
            "machine": runtime.describe_machine(),
        },
        "inference": keep("inference", time_inference, dcgan.load_model()),
        "training_step": keep("training step", time_training, digits),
        "training": [{"model": name, "scores": keep(name, train, name)} for name in networks],
    }


def _every_two_minutes_and_at_60_000_images() -> When:
    """A function of images seen and seconds that is true whenever a score of the comparison is due."""
    next_seconds, equal_is_due = float(SCORE_EVERY_SECONDS), True

    def due(images_seen: int, seconds: float) -> bool:
        nonlocal next_seconds, equal_is_due
        by_time, by_images = seconds >= next_seconds, equal_is_due and images_seen >= EQUAL_IMAGES
        next_seconds += SCORE_EVERY_SECONDS * by_time
        equal_is_due = equal_is_due and not by_images
        return by_time or by_images

    return due


def follow(
    network: Trainable,
    scorer: evaluation.Scorer,
    due: When,
    end: When,
    name: str,
    until: float = -math.inf,
    progress: bool = True,
) -> list[dict]:
    """Train, and score whenever `due(images seen, seconds)`. The last score is that of the `end(images seen, seconds)`,
    or the first with an FID of at most `until`.

    Returns a row for each score: `seconds` of training, `images_seen`, and the scores of a checkpoint.
    """
    rows: list[dict] = []
    images_seen, passed, began = 0, 0.0, time.perf_counter()
    with tqdm(desc=name, unit="step", disable=not progress) as bar:
        while True:
            network.step()
            bar.update()
            images_seen += network.batch_size
            now = passed + time.perf_counter() - began
            last = end(images_seen, now)
            if not (due(images_seen, now) or last):
                continue
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # a call returns before the GPU has finished
            passed += time.perf_counter() - began
            images = network.sample(scorer.config.count, scorer.config.seeds[0])
            rows.append({"seconds": passed, "images_seen": images_seen, **scorer.score(images)})
            if last or rows[-1][FID] <= until:
                return rows
            began = time.perf_counter()


def time_inference(model: dcgan.Generator) -> dict[str, float]:
    """Median seconds per image of `generate.sample`, 64 digits at a time and one alone, after a warm-up."""
    seconds = {}
    for name, count in (("seconds_per_image_of_64", 64), ("seconds_per_image_alone", 1)):
        for _ in range(3):
            generate.sample(model, count)
        seconds[name] = _median_seconds(lambda count=count: generate.sample(model, count)) / count
    return seconds


def time_training(digits: Digits, steps: int = 160) -> dict[str, float]:
    """Images per second of the training step; its operations per image, in GFLOP, as torch counts those of matrix
    products and convolutions, the gradient penalty not counted; and its share of the speed of a 2048 x 2048 x 2048
    matrix product, in the training's precision."""
    network = OwnDCGAN(ImageConfig(), digits, scorer=None)
    network.step()
    with FlopCounterMode(display=False) as counter:
        network.step()
    gflop = counter.get_total_flops() / network.batch_size / 1e9
    began = time.perf_counter()
    for _ in range(steps):
        network.step()
    images_per_second = steps * network.batch_size / (time.perf_counter() - began)

    device = digits.images.device
    dtype = torch.bfloat16 if runtime.has_fast_bfloat16(device) else torch.float32
    left, right = (torch.randn(2048, 2048, device=device, dtype=dtype) for _ in range(2))
    peak = 2 * 2048**3 / _median_seconds(lambda: left @ right) / 1e9
    return {
        "images_per_second": round(images_per_second, 1),
        "gflop_per_image": round(gflop, 6),
        "peak_gflop_per_second": round(peak, 1),
        "share_of_peak": round(images_per_second * gflop / peak, 4),
    }


def _median_seconds(call: Callable[[], object]) -> float:
    taken = []
    for _ in range(TIMING_REPEATS):
        began = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


class OwnDCGAN:
    """This project's DCGAN at a constant learning rate; its averaged generator is scored."""

    def __init__(self, config: ImageConfig, digits: Digits, scorer: evaluation.Scorer | None):
        self.config = config
        self.scorer = scorer  # which draws the samples; None if only timings are wanted
        self.batch_size = config.batch_size
        self.run = training.start(config)
        self._batches = self._endless_batches(digits)

    def _endless_batches(self, digits: Digits):
        while True:
            yield from training.batches(self.config, digits, self.run.epoch)
            self.run.epoch += 1

    def step(self) -> None:
        """One step of `training`."""
        training.train_step(self.run, next(self._batches))
        self.run.step += 1

    def sample(self, count: int, seed: int) -> Tensor:
        """Digits of the averaged generator, uint8 (count, 1, 28, 28)."""
        return self.scorer.sample(self.run.average, count, seed, latent_std=1.0)[0]


class Tutorial:
    """A tutorial's DCGAN: float32, Adam, binary cross-entropy, no averaging. Raw pixels in [-1, 1], resized to `side`.

    A subclass gives the networks and settings. The discriminator is updated before the generator.
    """

    side: int
    batch_size: int
    latent_dim = 100
    learning_rate: float
    betas: tuple[float, float]

    def __init__(self, digits: Digits, seed: int = 0):
        self.images = digits.images
        self.stream = runtime.random_stream(seed)
        with runtime.seeded(seed):
            self.generator = self.build_generator().to(self.images.device)
            self.discriminator = self.build_discriminator().to(self.images.device)
        self.optimisers = [
            torch.optim.Adam(network.parameters(), self.learning_rate, self.betas)
            for network in (self.generator, self.discriminator)
        ]

    def build_generator(self) -> nn.Sequential:
        """Latents (batch, latent_dim) -> images (batch, 1, side, side) in [-1, 1]."""
        raise NotImplementedError

    def build_discriminator(self) -> nn.Sequential:
        """Images (batch, 1, side, side) -> logits (batch,)."""
        raise NotImplementedError

    def step(self) -> None:
        """One update of the discriminator, then of the generator."""
        rows = torch.randint(len(self.images), (self.batch_size,), generator=self.stream)
        real = self._resize(to_unit_range(self.images[rows.to(self.images.device)]), self.side)
        fake = self.generator(self._latents(self.batch_size, self.stream))
        ones, zeros = torch.ones(self.batch_size, device=real.device), torch.zeros(self.batch_size, device=real.device)

        self.discriminator.zero_grad()
        binary_cross_entropy_with_logits(self.discriminator(real), ones).backward()
        binary_cross_entropy_with_logits(self.discriminator(fake.detach()), zeros).backward()
        self.optimisers[1].step()

        self.generator.zero_grad()
        binary_cross_entropy_with_logits(self.discriminator(fake), ones).backward()
        self.optimisers[0].step()

    @torch.no_grad()
    def sample(self, count: int, seed: int) -> Tensor:
        """Generate, then resize: uint8 (count, 1, 28, 28)."""
        stream = runtime.random_stream(seed)
        sizes = [len(rows) for rows in torch.arange(count).split(self.batch_size)]
        batches = [self.generator(self._latents(size, stream)) for size in sizes]
        return to_pixels(torch.cat([self._resize(batch, 28) for batch in batches])).cpu()

    def _latents(self, count: int, stream: torch.Generator) -> Tensor:
        return torch.randn(count, self.latent_dim, generator=stream).to(self.images.device)

    @staticmethod
    def _resize(images: Tensor, side: int) -> Tensor:
        return images if images.shape[-1] == side else interpolate(images, size=side, mode="bilinear", antialias=True)


class PyTorchTutorial(Tutorial):
    """The DCGAN of PyTorch's tutorial, with one colour channel. It samples with batch statistics, as there.

    https://docs.pytorch.org/tutorials/beginner/dcgan_faces_tutorial.html
    """

    side = 64
    batch_size = 128
    learning_rate = 2e-4
    betas = (0.5, 0.999)

    def build_generator(self) -> nn.Sequential:
        """Latents (batch, latent_dim) -> images (batch, 1, 64, 64) in [-1, 1]."""
        return self._initialised(
            nn.Unflatten(1, (self.latent_dim, 1, 1)),
            nn.ConvTranspose2d(self.latent_dim, 512, 4, 1, 0, bias=False),  # 4x4
            *(nn.BatchNorm2d(512), nn.ReLU(True), nn.ConvTranspose2d(512, 256, 4, 2, 1, bias=False)),  # 8x8
            *(nn.BatchNorm2d(256), nn.ReLU(True), nn.ConvTranspose2d(256, 128, 4, 2, 1, bias=False)),  # 16x16
            *(nn.BatchNorm2d(128), nn.ReLU(True), nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False)),  # 32x32
            *(nn.BatchNorm2d(64), nn.ReLU(True), nn.ConvTranspose2d(64, 1, 4, 2, 1, bias=False)),  # 64x64
            nn.Tanh(),
        )

    def build_discriminator(self) -> nn.Sequential:
        """Images (batch, 1, 64, 64) -> logits (batch,)."""
        return self._initialised(
            *(nn.Conv2d(1, 64, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)),
            *(nn.Conv2d(64, 128, 4, 2, 1, bias=False), nn.BatchNorm2d(128), nn.LeakyReLU(0.2, True)),
            *(nn.Conv2d(128, 256, 4, 2, 1, bias=False), nn.BatchNorm2d(256), nn.LeakyReLU(0.2, True)),
            *(nn.Conv2d(256, 512, 4, 2, 1, bias=False), nn.BatchNorm2d(512), nn.LeakyReLU(0.2, True)),
            *(nn.Conv2d(512, 1, 4, 1, 0, bias=False), nn.Flatten(0)),
        )

    @staticmethod
    def _initialised(*layers: nn.Module) -> nn.Sequential:
        for layer in layers:
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 1.0, 0.02)
            elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)
        return nn.Sequential(*layers)


class TensorFlowTutorial(Tutorial):
    """The DCGAN of TensorFlow's tutorial, made for MNIST. It samples with running statistics, as there.

    https://www.tensorflow.org/tutorials/generative/dcgan
    """

    side = 28
    batch_size = 256
    learning_rate = 1e-4
    betas = (0.9, 0.999)

    def build_generator(self) -> nn.Sequential:
        """Latents (batch, latent_dim) -> images (batch, 1, 28, 28) in [-1, 1]."""
        return self._initialised(
            *(nn.Linear(self.latent_dim, 256 * 49, bias=False), nn.BatchNorm1d(256 * 49), nn.LeakyReLU(0.3)),
            *(nn.Unflatten(1, (256, 7, 7)), nn.ConvTranspose2d(256, 128, 5, 1, 2, bias=False)),  # 7x7
            *(nn.BatchNorm2d(128), nn.LeakyReLU(0.3), nn.ConvTranspose2d(128, 64, 5, 2, 2, 1, bias=False)),  # 14x14
            *(nn.BatchNorm2d(64), nn.LeakyReLU(0.3), nn.ConvTranspose2d(64, 1, 5, 2, 2, 1, bias=False)),  # 28x28
            nn.Tanh(),
        )

    def build_discriminator(self) -> nn.Sequential:
        """Images (batch, 1, 28, 28) -> logits (batch,)."""
        return self._initialised(
            *(nn.Conv2d(1, 64, 5, 2, 2), nn.LeakyReLU(0.3), nn.Dropout(0.3)),
            *(nn.Conv2d(64, 128, 5, 2, 2), nn.LeakyReLU(0.3), nn.Dropout(0.3)),
            *(nn.Flatten(), nn.Linear(128 * 49, 1), nn.Flatten(0)),
        )

    @staticmethod
    def _initialised(*layers: nn.Module) -> nn.Sequential:
        """Keras's defaults: Glorot's uniform distribution, no bias, and batch norm's momentum and epsilon."""
        for layer in layers:
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.momentum, layer.eps = 0.01, 1e-3
            elif isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        return nn.Sequential(*layers)

    def sample(self, count: int, seed: int) -> Tensor:
        """Generate uint8 (count, 1, 28, 28)."""
        self.generator.eval()
        images = super().sample(count, seed)
        self.generator.train()
        return images


def ablate(images: int, keep: files.Keep = files.compute, progress: bool = True) -> dict:
    """Train each of `VARIANTS` on `images` training images, repeats counted, at a constant learning rate, once with
    each of `ABLATION_SEEDS`.

    Returns `protocol`; `rows`, one for each variant: its `changes`, and `runs`, for each seed the scores on the
    validation digits every 500 steps and `fid_mnist_no_average` of the generator itself at the end; and
    `images_to_fid_1`: how many training images, repeats counted, a training with and one without labels takes until it
    is scored with an FID of at most 1 (None: more than 1,280,000). `keep` is called for each training.
    """
    digits = load_mnist("train").to(runtime.device())
    scorer = evaluation.Scorer(load_mnist("validation"), digits, IMAGE_PROFILES["full"][1])

    def train(name: str, seed: int, most_images: int, until: float) -> dict:
        network = OwnDCGAN(replace(ImageConfig(), **VARIANTS[name], seed=seed), digits, scorer)
        interval = SCORE_EVERY_STEPS * network.batch_size
        due = lambda seen, _: seen % interval == 0  # noqa: E731
        end = lambda seen, _: seen + network.batch_size > most_images  # noqa: E731
        scores = follow(network, scorer, due, end, f"{name}, seed {seed}", until, progress)
        network.run.generator.eval()
        return {"scores": scores, f"{FID}_no_average": scorer.score_checkpoint(network.run.generator)[FID]}

    def in_parts(name: str, most_images: int, until: float) -> list[dict]:
        part = f"{name}, {'FID 1' if until > 0 else 'ablation'}, seed "
        return [keep(f"{part}{seed}", train, name, seed, most_images, until) for seed in ABLATION_SEEDS]

    rows = [
        {"variant": name, "changes": changes, "runs": in_parts(name, images, -math.inf)}
        for name, changes in VARIANTS.items()
    ]
    images_to_fid_1 = {}
    for name in ("default", "unconditional"):
        last = [run["scores"][-1] for run in in_parts(name, MOST_IMAGES_TO_FID_1, 1.0)]
        images_to_fid_1[name] = [score["images_seen"] if score[FID] <= 1.0 else None for score in last]
    protocol = {
        "images": images,
        "data": digits.source,
        "scored_on": "validation",
        "machine": runtime.describe_machine(),
        "default": asdict(ImageConfig()),
    }
    return {"protocol": protocol, "rows": rows, "images_to_fid_1": images_to_fid_1}
