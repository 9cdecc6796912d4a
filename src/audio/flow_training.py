"""Training of the stem flow: the latent's statistics, one step, the batches, the validation loss."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from src import distributed, paths, runtime, training_loop
from src.audio.data import Tracks, draw_excerpt
from src.audio.flow import EDGE, STYLES, StemFlow, flow_loss, mix_noise, with_neighbours
from src.audio.spectrogram import MelSpectrogram
from src.audio.training import change_speed, uniform
from src.audio.vae import STRIDE
from src.config import STEMS, FlowConfig
from src.metric_tables import BEST_FLOW, FLOW_LOSS

LEAST_KNOWN = 8  # latent frames at least that are known, and that are not, where a part of a window is known
RIDGE = 235.0  # penalty of the estimate of what is left out: it weighs as many latent frames of unit variance
VALIDATION_TIMES = 8  # times, evenly spread, at which the loss of a validation window is measured

Batch = tuple[Tensor, Tensor]  # log-mel spectrograms (batch, frames, bands) in dB, and their stem indices (batch,)


@dataclass
class Run(training_loop.Run):
    """A training run of the stem flow between two steps."""

    config: FlowConfig
    model: StemFlow
    average: StemFlow  # moving average of the model, which is evaluated and published
    optimiser: torch.optim.Adam

    NAME = "flow"
    PARTS = ("model", "average", "optimiser")
    BEST = BEST_FLOW
    HALF_PRECISION = True


def start(config: FlowConfig, tracks: Tracks) -> Run:
    """A run before its first step. Its weights depend on `config` alone, its latent's statistics on `tracks`."""
    with runtime.seeded(config.seed):
        model = StemFlow(config)
    set_statistics(model, tracks)
    model.to(runtime.device())
    average = deepcopy(model).eval().requires_grad_(False)
    optimiser = torch.optim.Adam(
        model.parameters(), config.learning_rate, betas=(config.beta1, config.beta2), fused=True
    )
    return Run(config, model, average, optimiser)


def train(
    config: FlowConfig,
    tracks: Tracks,
    run_paths: paths.FlowPaths,
    score: training_loop.Score | None = None,
    on_checkpoint: Callable[[Run], None] | None = None,
    progress: bool = True,
) -> Run:
    """Train the stem flow to `config.epochs`, from the run's latest checkpoint if it has one.

    `score(averaged model)` evaluates each checkpoint; the one with the lowest `flow_loss` is published as
    `run_paths.weights`. `on_checkpoint(run)` may print.

    Raises:
        CheckpointError: the folder holds a run with another configuration or other data.
        UsageError: the batch cannot be divided evenly among the processes.
    """
    distributed.check_batch_size(config.batch_size)
    return training_loop.train(
        start(config, tracks),
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


@torch.inference_mode()
def set_statistics(model: StemFlow, tracks: Tracks) -> None:
    """Measure, in the first seconds of every track, the mean and the standard deviation of each coefficient that the
    latent keeps, over all stems; for each stem, the estimate of those that it leaves out; and the styles of training
    windows at random places."""
    log_mels = [[model.log_mel(part) for part in _first_seconds(tracks, index)] for index in range(len(STEMS))]
    together = torch.cat([model.encode(log_mel)[0][0] for of_stem in log_mels for log_mel in of_stem])
    model.mean.copy_(together.mean(0))
    model.deviation.copy_(together.std(0).clamp(min=1e-3))
    for stem_index, of_stem in enumerate(log_mels):
        _fit_rest(model, stem_index, [model.encode(log_mel) for log_mel in of_stem])
    stream = runtime.random_stream(model.config.seed)
    for stem_index in range(len(STEMS)):
        model.styles[stem_index] = model.style(_windows(model, tracks, stem_index, STYLES, stream))
    styles = model.styles.flatten(0, 1)
    model.style_mean.copy_(styles.mean(0))
    model.style_deviation.copy_(styles.std(0).clamp(min=1e-3))
    model.styles.sub_(model.style_mean).div_(model.style_deviation)


def _fit_rest(model: StemFlow, stem_index: int, coded: list[tuple[Tensor, Tensor]]) -> None:
    """Fit `expected_rest` to the latents and the left-out coefficients of a stem's tracks by ridge regression."""
    inputs = torch.cat([with_neighbours(latent)[0] for latent, _ in coded])
    rest = torch.cat([left_out[0] for _, left_out in coded])
    centred, centred_rest = inputs - inputs.mean(0), rest - rest.mean(0)
    penalty = RIDGE * torch.eye(inputs.shape[1])
    weights = torch.linalg.solve(centred.T @ centred + penalty, centred.T @ centred_rest)
    model.rest_weights[stem_index] = weights
    model.rest_intercept[stem_index] = rest.mean(0) - inputs.mean(0) @ weights
    model.rest_deviation[stem_index] = (centred_rest - centred @ weights).std(0)


def _windows(model: StemFlow, tracks: Tracks, stem_index: int, count: int, stream: torch.Generator) -> Tensor:
    """Latents (count, window, latent_dim) of audible windows of a stem at random places."""
    crops = [draw_excerpt(tracks, stem_index, crop_samples(model.config), stream) for _ in range(count)]
    return model.encode(model.log_mel(torch.stack(crops))[:, EDGE:-EDGE])[0]


def _first_seconds(tracks: Tracks, stem_index: int, seconds: int = 8) -> Iterator[Tensor]:
    for stems in tracks.waveforms:
        yield stems[stem_index : stem_index + 1, : seconds * tracks.sample_rate]


def crop_samples(config: FlowConfig) -> int:
    """Samples of a crop: those of a window of `config.window` latent frames, and of its edges."""
    return (STRIDE * config.window + 2 * EDGE - 1) * config.mel_hop


def steps_per_epoch(config: FlowConfig, tracks: Tracks) -> int:
    """Steps per epoch: `passes_per_epoch` times the duration of one stem of all tracks over that of its crops in a
    batch."""
    samples = sum(stems.shape[-1] for stems in tracks.waveforms)
    return max(1, round(config.passes_per_epoch * samples / (crop_samples(config) * config.batch_size)))


def batches(config: FlowConfig, tracks: Tracks, epoch: int) -> Iterator[Batch]:
    """The batches of an epoch: windows of every stem at random gains, all of a batch at one random speed. They depend
    on (seed, epoch). Each process gets its share of every batch."""
    stream = runtime.random_stream(config.seed, epoch)
    spectrogram = MelSpectrogram.from_config(config)
    stem_indices = torch.arange(len(STEMS) * config.batch_size) % len(STEMS)
    for _ in range(steps_per_epoch(config, tracks)):
        speed = uniform(config.speed_range, 1, stream).item()
        length = next_fast_len(round(crop_samples(config) * speed), real=True)
        crops = torch.stack([draw_excerpt(tracks, int(stem_index), length, stream) for stem_index in stem_indices])
        gains_db = uniform(config.gain_range_db, len(crops), stream)[:, None, None]
        crops, gains_db = (distributed.own_share(part).to(runtime.device()) for part in (crops, gains_db))
        log_mels = spectrogram.log_mel(change_speed(crops, crop_samples(config)))[:, EDGE:-EDGE]
        yield log_mels + gains_db, distributed.own_share(stem_indices).to(log_mels.device)


def draw_noise(run: Run, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """For a batch of `count` windows: noise of the latent, noise of the style, times, which frames are known, and 0
    where the condition is left out. This process's share; every process draws those of the whole batch.

    Times are logistic-normal (Esser et al. 2024). In `context_share` of the windows the first frames are known.
    """
    config, device = run.config, runtime.device()
    own, common = (torch.randn(count, frames, config.latent_dim, device=device) for frames in (config.window, 1))
    noise = mix_noise(own, common, config.common_noise)
    style_noise = config.style_noise * torch.randn(count, config.style_dim, device=device)
    times = torch.randn(count, device=device).sigmoid()
    lengths = torch.randint(LEAST_KNOWN, config.window - LEAST_KNOWN + 1, (count,), device=device)
    lengths = lengths * (torch.rand(count, device=device) < config.context_share)
    is_known = (torch.arange(config.window, device=device) < lengths[:, None]).float()[..., None]
    conditioned = (torch.rand(count, 1, device=device) >= config.condition_dropout).float()
    return tuple(map(distributed.own_share, (noise, style_noise, times, is_known, conditioned)))


def train_step(run: Run, batch: Batch) -> Tensor:
    """Update model and average once. Returns the loss: ()."""
    log_mels, stem_indices = batch
    noise, style_noise, times, is_known, conditioned = draw_noise(run, len(STEMS) * run.config.batch_size)
    run.model.train()
    run.optimiser.zero_grad()
    data, _ = run.model.encode(log_mels)
    condition = run.model.condition(stem_indices, run.model.style(data) + style_noise) * conditioned
    loss = flow_loss(run.model, data, condition, is_known, noise, times).mean()
    loss.backward()
    distributed.average_gradients(run.model)
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.config.max_gradient_norm)
    run.optimiser.step()
    decay = training_loop.averaging_decay(run.step, run.config.ema_decay)
    training_loop.update_average(run.average, run.model, decay)
    return loss.detach()


def mean_losses(total: Tensor, steps: int) -> dict[str, float]:
    """The mean of an epoch from the sum of its steps' losses."""
    return {FLOW_LOSS: round((total / steps).item(), 4)}


class Scorer:
    """Measures the flow-matching loss of a checkpoint on the validation tracks, always with the same windows, noise and
    times."""

    def __init__(self, config: FlowConfig, tracks: Tracks):
        samples = crop_samples(config)
        stems = [
            (stem_index, stems[stem_index, begin : begin + samples])
            for stems in tracks.waveforms
            for stem_index in range(len(STEMS))
            for begin in range(0, stems.shape[1] - samples + 1, samples)
        ]
        self.stem_indices = torch.tensor([stem_index for stem_index, _ in stems])
        crops = torch.stack([crop for _, crop in stems])
        self.log_mels = MelSpectrogram.from_config(config).log_mel(crops)[:, EDGE:-EDGE]

    @torch.inference_mode()
    def score_checkpoint(self, model: StemFlow) -> dict[str, float]:
        """`flow_loss`: mean over windows and times, without known frames."""
        device, losses = runtime.device(), []
        stream = runtime.random_stream(0)
        for log_mels, stem_indices in zip(self.log_mels.split(16), self.stem_indices.split(16), strict=True):
            data, _ = model.encode(log_mels.to(device))
            own, common = (torch.randn(part.shape, generator=stream).to(device) for part in (data, data[:, :1]))
            noise = mix_noise(own, common, model.config.common_noise)
            condition = model.condition(stem_indices.to(device), model.style(data))
            for number in range(VALIDATION_TIMES):
                times = torch.full((len(data),), (number + 0.5) / VALIDATION_TIMES, device=device)
                is_known = torch.zeros_like(data[..., :1])
                losses.append(flow_loss(model, data, condition, is_known, noise, times))
        return {FLOW_LOSS: round(torch.cat(losses).mean().item(), 4)}
