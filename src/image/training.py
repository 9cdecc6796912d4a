"""Adversarial training: the loop, its checkpoints and its log."""

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from tqdm.auto import tqdm

from src import checkpoints, paths, runtime
from src.config import ImageConfig
from src.image import dcgan, generate
from src.image.data import Digits, to_unit_range

GRID_COLUMNS = 10
GRID_SEED = 0

Score = Callable[[dcgan.Generator], dict[str, float]]


@dataclass
class Run(checkpoints.Resumable):
    """A training run at one moment: all that resuming it needs."""

    config: ImageConfig
    generator: dcgan.Generator
    discriminator: dcgan.Discriminator
    average: dcgan.Generator  # exponential moving average of the generator, the model that is judged and published
    generator_optimiser: torch.optim.Adam
    discriminator_optimiser: torch.optim.Adam
    epoch: int = 0  # epochs finished
    step: int = 0  # steps finished
    seconds: float = 0.0  # spent in training steps, evaluations and saving not counted
    scores: list[dict] = field(default_factory=list)  # of each checkpoint, with its epoch

    PARTS = ("generator", "discriminator", "average", "generator_optimiser", "discriminator_optimiser")


def start(config: ImageConfig) -> Run:
    """A run before its first step; its weights depend on `config` alone."""
    where = runtime.device()
    torch.manual_seed(config.seed)
    generator = dcgan.build_generator(config).to(where, memory_format=torch.channels_last)
    discriminator = dcgan.build_discriminator(config).to(where, memory_format=torch.channels_last)
    adam = {"lr": config.learning_rate, "betas": (config.beta1, config.beta2)}
    return Run(
        config,
        generator,
        discriminator,
        deepcopy(generator).eval().requires_grad_(False),
        torch.optim.Adam(generator.parameters(), **adam),
        torch.optim.Adam(discriminator.parameters(), **adam),
    )


def train(
    config: ImageConfig,
    digits: Digits,
    where: paths.ImagePaths,
    score: Score | None = None,
    on_checkpoint: Callable[[Run], None] | None = None,
    progress: bool = True,
) -> Run:
    """Train to `config.epochs`, going on from the run's latest checkpoint where there is one.

    Every `checkpoint_every` epochs and at the end: the training state, a grid of always the same latents, and what
    `score` says of the averaged generator; the best by its `fid_mnist` is published as `where.weights`. Losses and
    scores go to `where.training_log`, one JSON object a line.

    Raises:
        CheckpointError: where the folder holds a run of another configuration or other data.
        ValueError: where the batch cannot be shared out evenly among the processes.
    """
    if config.batch_size % runtime.world_size():
        raise ValueError(f"a batch of {config.batch_size} cannot be shared by {runtime.world_size()} processes evenly")
    run = resume(config, digits, where)
    runtime.check_agreement(run.step, "the checkpoint that they go on from")
    images = digits.images.to(runtime.device())
    steps = config.epochs * (len(images) // config.batch_size)
    bar = tqdm(total=steps, initial=run.step, desc="DCGAN", unit="step", disable=not (progress and runtime.is_main()))
    log = checkpoints.Log(where.training_log, run.epoch)
    if run.step == 0:
        log.write({"epoch": 0, "data": digits.source, "config": asdict(config), "machine": runtime.describe()})
    while run.epoch < config.epochs:
        losses = train_epoch(run, images, steps, bar)
        log.write({"epoch": run.epoch, "seconds": round(run.seconds, 2), **losses})
        if run.epoch % config.checkpoint_every == 0 or run.epoch == config.epochs:
            for network in (run.generator, run.discriminator, run.average):
                runtime.average_buffers(network)
            if runtime.is_main():
                save_checkpoint(run, digits, where, score, log)
                if on_checkpoint:
                    on_checkpoint(run)
            runtime.wait_for_all()
    bar.close()
    return run


def resume(config: ImageConfig, digits: Digits, where: paths.ImagePaths) -> Run:
    """The run as its latest checkpoint left it, or before its first step where there is none."""
    run = start(config)
    if state := checkpoints.load_latest(where, asdict(config) | {"data": digits.source}):
        run.load_state_dict(state)
    return run


def train_epoch(run: Run, images: Tensor, total_steps: int, bar: tqdm) -> dict[str, float]:
    """One pass over `images`, uint8 on the device, in the order of (seed, epoch).

    Returns the mean losses in nats, and the mean penalty E |grad D(x)|^2 over the steps that computed it.
    """
    began = time.perf_counter()
    totals = torch.zeros(3, device=images.device)
    count = penalties = 0
    for real, latents in batches(run.config, images, run.epoch):
        set_learning_rate(run, total_steps)
        penalties += penalised(run)
        totals += train_step(run, real, latents)
        count += 1
        run.step += 1
        bar.update()
    run.epoch += 1
    discriminator_loss, generator_loss, penalty = totals.tolist()  # also waits for an accelerator to finish
    run.seconds += time.perf_counter() - began
    return {
        "discriminator_loss": round(discriminator_loss / count, 5),
        "generator_loss": round(generator_loss / count, 5),
        "r1": round(penalty / max(1, penalties), 5),
    }


def batches(config: ImageConfig, images: Tensor, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Real images (batch, 1, 28, 28) in [-1, 1] and latents (batch, latent_dim) for each step of an epoch.

    Among several processes each gets its share of every batch. An incomplete last batch is left out.
    """
    stream = runtime.random_stream(config.seed, epoch)
    for rows in torch.randperm(len(images), generator=stream).split(config.batch_size):
        if len(rows) == config.batch_size:
            latents = torch.randn(config.batch_size, config.latent_dim, generator=stream)
            real = images[runtime.own_share(rows).to(images.device)]
            yield to_unit_range(real), runtime.own_share(latents).to(images.device)


def train_step(run: Run, real: Tensor, latents: Tensor) -> Tensor:
    """Update discriminator, generator and average once.

    Returns the losses (3,): the discriminator's and the generator's non-saturating loss (Goodfellow et al. 2014), and
    the penalty E |grad D(x)|^2 where this step computes it, else 0.
    """
    config = run.config
    with runtime.autocast(real.device):
        fake = run.generator(latents)

    run.discriminator.requires_grad_(True)
    run.discriminator_optimiser.zero_grad()
    with runtime.autocast(real.device):
        real_logits, fake_logits = run.discriminator(real), run.discriminator(fake.detach())
        discriminator_loss = softplus(-real_logits.float()).mean() + softplus(fake_logits.float()).mean()
    discriminator_loss.backward()
    penalty = torch.zeros((), device=real.device)
    if penalised(run):
        penalty = squared_gradient(run.discriminator, real)
        (penalty * (config.r1_weight / 2 * config.r1_interval)).backward()
    runtime.average_gradients(run.discriminator)
    run.discriminator_optimiser.step()

    run.discriminator.requires_grad_(False)
    run.generator_optimiser.zero_grad()
    with runtime.autocast(real.device):
        generator_loss = softplus(-run.discriminator(fake).float()).mean()
    generator_loss.backward()
    runtime.average_gradients(run.generator)
    run.generator_optimiser.step()
    # The average follows fast at first, so that the random start is forgotten.
    runtime.update_average(run.average, run.generator, min(config.ema_decay, (1 + run.step) / (10 + run.step)))
    return torch.stack([discriminator_loss.detach(), generator_loss.detach(), penalty.detach()])


def penalised(run: Run) -> bool:
    """Whether the next step applies the gradient penalty."""
    return run.config.r1_weight > 0 and run.step % run.config.r1_interval == 0


def squared_gradient(discriminator: nn.Module, real: Tensor) -> Tensor:
    """E |grad_x D(x)|^2 over real images: R1 (Mescheder et al. 2018, eq. 9). In float32: it is differentiated twice."""
    real = real.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def set_learning_rate(run: Run, total_steps: int) -> None:
    """Constant, then linearly to zero over the last `decay_fraction` of the run."""
    left = 1 - run.step / total_steps
    for optimiser in (run.generator_optimiser, run.discriminator_optimiser):
        for group in optimiser.param_groups:
            group["lr"] = run.config.learning_rate * min(1.0, left / max(run.config.decay_fraction, 1e-9))


def save_checkpoint(
    run: Run, digits: Digits, where: paths.ImagePaths, score: Score | None, log: checkpoints.Log
) -> None:
    """Score the averaged generator, then write grid, best weights and, last, the training state."""
    scores = {"epoch": run.epoch, "training_seconds": round(run.seconds, 1)}
    scores |= score(run.average) if score else {}
    run.scores.append(scores)
    fixed = generate.sample(run.average, GRID_COLUMNS**2, GRID_SEED)
    generate.save_grid(fixed, where.grid(run.epoch), GRID_COLUMNS)
    if "fid_mnist" not in scores or scores is min(run.scores, key=lambda row: row["fid_mnist"]):
        checkpoints.save_weights(where.weights, run.average.state_dict(), {"config": asdict(run.config), **scores})
    log.write(scores)  # after the weights: the last line of a log says that a run is finished
    checkpoints.save_state(where.checkpoint(run.epoch), run.state_dict() | {"data": digits.source})
