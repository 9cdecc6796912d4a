"""Training of the stem VAE: one step, the batches."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from src import distributed, paths, runtime, training_loop
from src.audio import vae
from src.audio.data import Tracks, draw_excerpt
from src.audio.losses import TERMS, objective
from src.config import STEMS, AudioConfig
from src.metric_tables import BEST_STEM_VAE

Batch = list[tuple[Tensor, Tensor]]  # for each stem: waveforms (batch, crop), and their target SDR in dB (batch,)


@dataclass
class Run(training_loop.Run):
    """A training run of the stem VAE between two steps."""

    config: AudioConfig
    model: vae.StemVAE
    average: vae.StemVAE  # moving average of the model, which is evaluated and published
    optimiser: torch.optim.Adam

    NAME = "VAE"
    PARTS = ("model", "average", "optimiser")
    BEST = BEST_STEM_VAE


def start(config: AudioConfig) -> Run:
    """A run before its first step. Its weights depend on `config` alone."""
    with runtime.seeded(config.seed):
        model = vae.StemVAE(config).to(runtime.device())
    average = deepcopy(model).eval().requires_grad_(False)
    optimiser = torch.optim.Adam(model.parameters(), config.learning_rate, betas=(config.beta1, config.beta2))
    return Run(config, model, average, optimiser)


def train(
    config: AudioConfig,
    tracks: Tracks,
    run_paths: paths.AudioPaths,
    score: training_loop.Score | None = None,
    on_checkpoint: Callable[[Run], None] | None = None,
    progress: bool = True,
) -> Run:
    """Train the stem VAE on the first `config.tracks` to `config.epochs`, from the run's latest checkpoint if it has
    one.

    `score(averaged model)` evaluates each checkpoint; the one with the lowest `objective_kbit_s` is published as
    `run_paths.weights`. `on_checkpoint(run)` may print and draw.

    Raises:
        CheckpointError: the folder holds a run with another configuration or other data.
        UsageError: the batch cannot be divided evenly among the processes.
    """
    distributed.check_batch_size(config.batch_size)
    tracks = tracks.first(config.tracks)
    return training_loop.train(
        start(config),
        run_paths,
        tracks.source,
        steps_per_epoch=steps_per_epoch(config, tracks),
        batches=partial(batches, config, tracks),
        train_step=train_step,
        mean_losses=mean_losses,
        score=score,
        on_checkpoint=on_checkpoint,
        progress=progress,
    )


def steps_per_epoch(config: AudioConfig, tracks: Tracks) -> int:
    """Steps per epoch: the duration of one stem of all tracks over the duration of its crops in a batch."""
    samples = sum(stems.shape[-1] for stems in tracks.waveforms)
    return max(1, round(samples / (config.crop * config.batch_size)))


def batches(config: AudioConfig, tracks: Tracks, epoch: int) -> Iterator[Batch]:
    """The batches of an epoch: crops of every stem with random gains, and random target SDRs. They depend on (seed,
    epoch). Each process gets its share of every batch."""
    stream = runtime.random_stream(config.seed, epoch)
    for _ in range(steps_per_epoch(config, tracks)):
        batch = []
        for stem_index in range(len(STEMS)):
            crops = torch.stack([draw_crop(config, tracks, stem_index, stream) for _ in range(config.batch_size)])
            gains_db = uniform(config.gain_range_db, config.batch_size, stream)
            sdr_db = uniform(config.sdr_range_db, config.batch_size, stream)
            crops = crops * 10 ** (gains_db[:, None] / 20)
            batch.append((distributed.own_share(crops), distributed.own_share(sdr_db)))
        yield batch


def draw_crop(config: AudioConfig, tracks: Tracks, stem_index: int, stream: torch.Generator) -> Tensor:
    """A crop (crop,) of a stem from a random place of a random track, played at a random speed."""
    length = round(config.crop * uniform(config.speed_range, 1, stream).item())
    return change_speed(draw_excerpt(tracks, stem_index, length, stream), config.crop)


def change_speed(waveforms: Tensor, samples: int) -> Tensor:
    """Waveforms (..., samples') resampled by their Fourier series to `samples`: faster and higher, or slower and
    lower."""
    before = waveforms.shape[-1]
    shorter = min(before, samples)
    spectrum = torch.fft.rfft(waveforms)[..., : shorter // 2 + 1].clone()
    if shorter % 2 == 0 and samples != before:  # the last bin stands for both signs of its frequency in one series only
        spectrum[..., -1] *= 2 if samples < before else 0.5
    return torch.fft.irfft(spectrum, n=samples) * (samples / before)


def uniform(bounds: tuple[float, float], count: int, stream: torch.Generator) -> Tensor:
    """Random numbers (count,), uniform between both bounds."""
    low, high = bounds
    return low + (high - low) * torch.rand(count, generator=stream)


def draw_noise(run: Run, stem_index: int) -> tuple[Tensor, Tensor]:
    """This process's share of the noise of both latents of a batch: every process draws that of the whole batch."""
    shapes = run.model.latent_shapes(run.config.batch_size, run.config.crop, stem_index)
    mel_noise, fine_noise = (torch.randn(shape, device=runtime.device()) for shape in shapes)
    return distributed.own_share(mel_noise), distributed.own_share(fine_noise)


def train_step(run: Run, batch: Batch) -> Tensor:
    """Update model and average once. Returns the terms of the objective in kbit/s: (stems, 4)."""
    device = runtime.device()
    run.model.train()
    run.optimiser.zero_grad()
    losses = []
    for stem_index, (waveforms, sdr_db) in enumerate(batch):
        noise = draw_noise(run, stem_index)
        losses.append(objective(run.model, waveforms.to(device), stem_index, sdr_db.to(device), noise))
        losses[-1].sum().backward()
    distributed.average_gradients(run.model)
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.config.max_gradient_norm)
    run.optimiser.step()
    decay = training_loop.averaging_decay(run.step, run.config.ema_decay)
    training_loop.update_average(run.average, run.model, decay)
    return torch.stack(losses).detach()


def mean_losses(totals: Tensor, steps: int) -> dict[str, dict[str, float]]:
    """The means of an epoch in kbit/s, for each stem, from the sum of its steps' losses (stems, 4)."""
    rows = (totals / steps).tolist()
    return {
        stem: {name: round(value, 4) for name, value in zip(TERMS, row, strict=True)}
        for stem, row in zip(STEMS, rows, strict=True)
    }
