"""Timings of the DCGAN, and its comparison at equal training time with the tutorial's DCGAN and with its own variants
(the ablation)."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from tqdm.auto import tqdm

from src import runtime
from src.config import IMAGE_PROFILES, ImageConfig
from src.image import dcgan, evaluation, generate, training
from src.image.data import load_mnist, to_pixels, to_unit_range
from src.metric_tables import FID

VARIANTS: dict[str, dict] = {
    "default": {},
    "shallow: 2 and 3 hidden convolutions, not 4 and 4": {"generator_depth": 2, "discriminator_depth": 3},
    "ten times the gradient penalty": {"r1_weight": 1.0},
    "no gradient penalty": {"r1_weight": 0.0},
    "no batch norm in the discriminator": {"discriminator_norm": "none"},
}


def compare(minutes: float, progress: bool = True) -> dict:
    """Time the published generator; then train this DCGAN and the tutorial's for `minutes` each and score both.

    Returns `protocol`, `inference` (seconds per image), `training` (one row for each of the two) and `fid_ratio`. Both
    are scored by the reference classifier on the same number of images, against the test digits.
    """
    inference = time_inference(dcgan.load_model())
    digits, test = load_mnist("train"), load_mnist("test")
    images = digits.images.to(runtime.device())
    judge = evaluation.Judge(test, IMAGE_PROFILES["full"][1])
    seed, count = judge.config.seeds[0], judge.config.count

    tutorial = Tutorial(images)
    steps, seconds = repeat_for(minutes * 60, tutorial.step, "tutorial DCGAN", progress)
    theirs = _row("tutorial DCGAN, 64x64", steps * tutorial.batch_size, seconds, judge, tutorial.sample(count, seed))

    run = train_for(minutes * 60, ImageConfig(), images, "this DCGAN", progress)
    sampled = generate.sample(run.average, count, seed)
    ours = _row("this DCGAN, 28x28", run.step * run.config.batch_size, run.seconds, judge, sampled)
    return {
        "protocol": {
            "minutes": minutes,
            "data": digits.source,
            "images_scored": count,
            "reference": f"{len(test):,} test digits",
            "machine": runtime.describe_machine(),
        },
        "inference": inference,
        "training": [ours, theirs],
        "fid_ratio": theirs[FID] / ours[FID],
    }


def _row(name: str, images_seen: int, seconds: float, judge: evaluation.Judge, images: Tensor) -> dict:
    return {
        "model": name,
        "images_seen": images_seen,
        "images_per_second": round(images_seen / seconds, 1),
        **judge.score(images),
    }


def time_inference(model: dcgan.Generator, repeats: int = 30) -> dict[str, float]:
    """Median seconds per image from latents to uint8, in batches of 64 and one at a time, over `repeats` calls after a
    warm-up."""
    seconds = {}
    for name, batch_size in (("seconds_per_image_in_batches_of_64", 64), ("seconds_per_image_alone", 1)):
        latents = generate.draw_latents(batch_size, model.latent_dim)
        for _ in range(3):
            generate.decode(model, latents)
        taken = []
        for _ in range(repeats):
            began = time.perf_counter()
            generate.decode(model, latents)
            taken.append((time.perf_counter() - began) / batch_size)
        seconds[name] = statistics.median(taken)
    return seconds


class Tutorial:
    """The DCGAN of PyTorch's DCGAN tutorial, with one colour channel: 64x64, float32, batches of 128, Adam at 2e-4,
    binary cross-entropy, batch norm in both networks, no averaging.

    https://docs.pytorch.org/tutorials/beginner/dcgan_faces_tutorial.html
    """

    batch_size = 128
    latent_dim = 100

    def __init__(self, images: Tensor, seed: int = 0):
        self.images = images
        self.stream = runtime.random_stream(seed)
        with runtime.seeded(seed):
            self.generator = self._initialised(
                nn.ConvTranspose2d(self.latent_dim, 512, 4, 1, 0, bias=False),  # 4x4
                *(nn.BatchNorm2d(512), nn.ReLU(True), nn.ConvTranspose2d(512, 256, 4, 2, 1, bias=False)),  # 8x8
                *(nn.BatchNorm2d(256), nn.ReLU(True), nn.ConvTranspose2d(256, 128, 4, 2, 1, bias=False)),  # 16x16
                *(nn.BatchNorm2d(128), nn.ReLU(True), nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False)),  # 32x32
                *(nn.BatchNorm2d(64), nn.ReLU(True), nn.ConvTranspose2d(64, 1, 4, 2, 1, bias=False)),  # 64x64
                nn.Tanh(),
            )
            self.discriminator = self._initialised(
                *(nn.Conv2d(1, 64, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)),
                *(nn.Conv2d(64, 128, 4, 2, 1, bias=False), nn.BatchNorm2d(128), nn.LeakyReLU(0.2, True)),
                *(nn.Conv2d(128, 256, 4, 2, 1, bias=False), nn.BatchNorm2d(256), nn.LeakyReLU(0.2, True)),
                *(nn.Conv2d(256, 512, 4, 2, 1, bias=False), nn.BatchNorm2d(512), nn.LeakyReLU(0.2, True)),
                *(nn.Conv2d(512, 1, 4, 1, 0, bias=False), nn.Flatten(0)),
            )
        parameters = (self.generator.parameters(), self.discriminator.parameters())
        self.optimisers = [torch.optim.Adam(of, lr=2e-4, betas=(0.5, 0.999)) for of in parameters]

    def _initialised(self, *layers: nn.Module) -> nn.Sequential:
        for layer in layers:
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 1.0, 0.02)
            elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)
        return nn.Sequential(*layers).to(self.images.device)

    def _latents(self, count: int, stream: torch.Generator) -> Tensor:
        return torch.randn(count, self.latent_dim, 1, 1, generator=stream).to(self.images.device)

    def step(self) -> None:
        """One update of the discriminator, then of the generator."""
        rows = torch.randint(len(self.images), (self.batch_size,), generator=self.stream)
        real = interpolate(to_unit_range(self.images[rows.to(self.images.device)]), size=64, mode="bilinear")
        fake = self.generator(self._latents(self.batch_size, self.stream))
        loss = nn.functional.binary_cross_entropy_with_logits
        ones, zeros = torch.ones(self.batch_size, device=real.device), torch.zeros(self.batch_size, device=real.device)

        self.discriminator.zero_grad()
        loss(self.discriminator(real), ones).backward()
        loss(self.discriminator(fake.detach()), zeros).backward()
        self.optimisers[1].step()

        self.generator.zero_grad()
        loss(self.discriminator(fake), ones).backward()
        self.optimisers[0].step()

    @torch.no_grad()
    def sample(self, count: int, seed: int) -> Tensor:
        """Generate with batch statistics, as in the tutorial, then resize: uint8 (count, 1, 28, 28)."""
        stream = runtime.random_stream(seed)
        sizes = [len(rows) for rows in torch.arange(count).split(self.batch_size)]
        batches = [self.generator(self._latents(size, stream)) for size in sizes]
        small = [interpolate(batch, size=28, mode="bilinear", antialias=True) for batch in batches]
        return to_pixels(torch.cat(small)).cpu()


def ablate(minutes: float, variants: dict[str, dict] = VARIANTS, progress: bool = True) -> dict:
    """Train each variant for the same time at a constant learning rate and score it on the validation digits.

    Returns `protocol` and `rows`, one for each variant: steps, images per second, `fid_mnist` and
    `inception_score_mnist` of the averaged generator, and `fid_mnist_no_average` of the generator itself.
    """
    digits = load_mnist("train")
    images = digits.images.to(runtime.device())
    judge = evaluation.Judge(load_mnist("validation"), IMAGE_PROFILES["full"][1])
    rows = []
    for name, changes in variants.items():
        run = train_for(minutes * 60, replace(ImageConfig(), **changes), images, name, progress)
        run.generator.eval()
        rows.append(
            {
                "variant": name,
                "changes": changes,
                "steps": run.step,
                "images_per_second": round(run.step * run.config.batch_size / run.seconds, 1),
                **judge.score_checkpoint(run.average),
                f"{FID}_no_average": judge.score_checkpoint(run.generator)[FID],
            }
        )
        tqdm.write(str(rows[-1]))
    protocol = {
        "minutes": minutes,
        "data": digits.source,
        "scored_on": "validation",
        "machine": runtime.describe_machine(),
    }
    return {"protocol": protocol | {"default": asdict(ImageConfig())}, "rows": rows}


def train_for(seconds: float, config: ImageConfig, images: Tensor, name: str, progress: bool) -> training.Run:
    """Train for `seconds` at a constant learning rate, over as many epochs as that takes."""
    run = training.start(config)

    def endless_batches():
        while True:
            yield from training.batches(config, images, run.epoch)
            run.epoch += 1

    batches = endless_batches()

    def step() -> None:
        training.train_step(run, next(batches))
        run.step += 1

    _, run.seconds = repeat_for(seconds, step, name, progress)
    return run


def repeat_for(seconds: float, step: Callable[[], None], name: str, progress: bool) -> tuple[int, float]:
    """Call `step` until `seconds` have passed. Returns the number of calls and the seconds they took."""
    began = time.perf_counter()
    count, passed = 0, 0.0
    with tqdm(total=round(seconds), desc=name, unit="s", disable=not progress) as bar:
        while passed < seconds:
            step()
            count += 1
            passed = time.perf_counter() - began
            bar.update(min(int(passed), bar.total) - bar.n)
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # a call returns before the GPU has finished
    return count, time.perf_counter() - began
