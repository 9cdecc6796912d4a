"""Adversarial training of the DCGAN: one step, the batches."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from src import distributed, paths, runtime, training_loop
from src.config import ImageConfig
from src.errors import UsageError
from src.image import dcgan
from src.image.data import Digits, to_unit_range
from src.image.losses import discriminator_loss, generator_loss, gradient_penalty
from src.metric_tables import BEST_GENERATOR

# Real images (batch, 1, 28, 28) in [-1, 1], their digits one-hot (batch, classes), and latents (batch, latent_dim)
Batch = tuple[Tensor, Tensor, Tensor]


@dataclass
class Run(training_loop.Run):
    """A training run of the DCGAN between two steps."""

    config: ImageConfig
    generator: dcgan.Generator
    discriminator: dcgan.Discriminator
    average: dcgan.Generator  # moving average of the generator: the model that is evaluated and published
    generator_optimiser: torch.optim.Adam
    discriminator_optimiser: torch.optim.Adam

    NAME = "DCGAN"
    PARTS = ("generator", "discriminator", "average", "generator_optimiser", "discriminator_optimiser")
    BEST = BEST_GENERATOR


def start(config: ImageConfig) -> Run:
    """A run before its first step. Its weights depend on `config` alone."""
    device = runtime.device()
    with runtime.seeded(config.seed):
        generator = dcgan.build_generator(config).to(device, memory_format=torch.channels_last)
        discriminator = dcgan.build_discriminator(config).to(device, memory_format=torch.channels_last)
    average = deepcopy(generator).eval().requires_grad_(False)
    optimisers = [
        torch.optim.Adam(network.parameters(), config.learning_rate, betas=(config.beta1, config.beta2), fused=True)
        for network in (generator, discriminator)
    ]
    return Run(config, generator, discriminator, average, *optimisers)


def train(
    config: ImageConfig,
    digits: Digits,
    run_paths: paths.ImagePaths,
    score: training_loop.Score | None = None,
    on_checkpoint: Callable[[Run], None] | None = None,
    progress: bool = True,
) -> Run:
    """Train the DCGAN on `digits` to `config.epochs`, from the run's latest checkpoint if it has one.

    `score(averaged generator)` evaluates each checkpoint; the one with the lowest `fid_mnist` is published as
    `run_paths.weights`. `on_checkpoint(run)` may print and draw.

    Raises:
        CheckpointError: the folder holds a run with another configuration or other data.
        UsageError: the batch cannot be divided evenly among the processes, or exceeds the number of images.
    """
    distributed.check_batch_size(config.batch_size)
    if len(digits) < config.batch_size:
        raise UsageError(f"{len(digits)} images are fewer than a batch of {config.batch_size}: train on more images")
    return training_loop.train(
        start(config),
        run_paths,
        digits.source,
        steps_per_epoch=len(digits) // config.batch_size,
        batches=partial(batches, config, digits.to(runtime.device())),
        train_step=train_step,
        mean_losses=mean_losses,
        score=score,
        on_checkpoint=on_checkpoint,
        progress=progress,
    )


def batches(config: ImageConfig, digits: Digits, epoch: int) -> Iterator[Batch]:
    """The batches of an epoch over `digits`, in an order that depends on (seed, epoch).

    Each process gets its share of every batch. An incomplete last batch is dropped.
    """
    stream = runtime.random_stream(config.seed, epoch)
    for rows in torch.randperm(len(digits), generator=stream).split(config.batch_size):
        if len(rows) == config.batch_size:
            latents = torch.randn(config.batch_size, config.latent_dim, generator=stream)
            own = distributed.own_share(rows).to(digits.images.device)
            one_hot = dcgan.one_hot(digits.labels[own], config.classes)
            yield to_unit_range(digits.images[own]), one_hot, distributed.own_share(latents).to(one_hot.device)


def train_step(run: Run, batch: Batch) -> Tensor:
    """Update discriminator, generator and average once.

    Returns (4,): the discriminator's loss, the generator's loss, the gradient penalty, and 1 if this step computed the
    penalty, else 0 and 0.
    """
    real, one_hot, latents = batch
    with runtime.autocast(real.device):
        fake = run.generator(latents, one_hot)

    # Discriminator
    run.discriminator.requires_grad_(True)
    run.discriminator_optimiser.zero_grad()
    with runtime.autocast(real.device):
        loss_d = discriminator_loss(run.discriminator(real, one_hot), run.discriminator(fake.detach(), one_hot))
    loss_d.backward()
    penalty, penalised = torch.zeros((), device=real.device), needs_penalty(run)
    if penalised:
        penalty = gradient_penalty(run.discriminator, real, one_hot)
        (penalty * (run.config.r1_weight / 2 * run.config.r1_interval)).backward()
    distributed.average_gradients(run.discriminator)
    run.discriminator_optimiser.step()

    # Generator
    run.discriminator.requires_grad_(False)
    run.generator_optimiser.zero_grad()
    with runtime.autocast(real.device):
        loss_g = generator_loss(run.discriminator(fake, one_hot))
    loss_g.backward()
    distributed.average_gradients(run.generator)
    run.generator_optimiser.step()

    decay = training_loop.averaging_decay(run.step, run.config.ema_decay)
    training_loop.update_average(run.average, run.generator, decay)
    return torch.stack([loss_d.detach(), loss_g.detach(), penalty.detach(), penalty.new_tensor(float(penalised))])


def needs_penalty(run: Run) -> bool:
    """True if the next step applies the gradient penalty."""
    return run.config.r1_weight > 0 and run.step % run.config.r1_interval == 0


def mean_losses(totals: Tensor, steps: int) -> dict[str, float]:
    """The means of an epoch from the sum of its steps' losses (4,); the penalty's over the steps that computed it."""
    loss_d, loss_g, penalty, penalties = totals.tolist()
    return {
        "discriminator_loss": round(loss_d / steps, 5),
        "generator_loss": round(loss_g / steps, 5),
        "r1": round(penalty / max(1, penalties), 5),
    }
