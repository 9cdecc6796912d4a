"""Training of the two-latent VAE on the evidence lower bound: the loop, its checkpoints and its log."""

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor
from tqdm.auto import tqdm

from src import checkpoints, paths, runtime
from src.audio import vae
from src.audio.data import STEMS, Tracks, draw_excerpt
from src.config import AudioConfig

PARTS = ("distortion", "mel_rate", "fine_rate", "mel_likelihood")  # of the objective, kbit/s

Score = Callable[[vae.StemVAE], dict[str, float]]
Batch = list[
    tuple[Tensor, Tensor]
]  # for each stem: waveforms (batch, crop), and the SDR in dB to code them at (batch,)


@dataclass
class Run(checkpoints.Resumable):
    """A training run at one moment: all that resuming it needs."""

    config: AudioConfig
    model: vae.StemVAE
    average: vae.StemVAE  # exponential moving average of the model, which is judged and published
    optimiser: torch.optim.Adam
    epoch: int = 0  # epochs finished
    step: int = 0  # steps finished
    seconds: float = 0.0  # spent in training steps, evaluations and saving not counted
    scores: list[dict] = field(default_factory=list)  # of each checkpoint, with its epoch

    PARTS = ("model", "average", "optimiser")


def start(config: AudioConfig) -> Run:
    """A run before its first step; its weights depend on `config` alone."""
    torch.manual_seed(config.seed)
    model = vae.StemVAE(config).to(runtime.device())
    optimiser = torch.optim.Adam(model.parameters(), config.learning_rate, betas=(0.9, config.beta2))
    return Run(config, model, deepcopy(model).eval().requires_grad_(False), optimiser)


def train(
    config: AudioConfig,
    tracks: Tracks,
    where: paths.AudioPaths,
    score: Score | None = None,
    on_checkpoint: Callable[[Run], None] | None = None,
    progress: bool = True,
) -> Run:
    """Train to `config.epochs` on the first `config.tracks`, going on from the run's latest checkpoint if there is one.

    Every `checkpoint_every` epochs and at the end: the training state, and what `score` says of the averaged model; the
    best by its `objective_kbit_s` is published as `where.weights`. The objective's parts and the scores go to
    `where.training_log`, one JSON object a line.

    Raises:
        CheckpointError: where the folder holds a run of another configuration or other data.
        ValueError: where the batch cannot be shared out evenly among the processes.
    """
    if config.batch_size % runtime.world_size():
        raise ValueError(f"a batch of {config.batch_size} cannot be shared by {runtime.world_size()} processes evenly")
    tracks = tracks.first(config.tracks)
    run = start(config)
    if state := checkpoints.load_latest(where, asdict(config) | {"data": tracks.source}):
        run.load_state_dict(state)
    runtime.check_agreement(run.step, "the checkpoint that they go on from")
    total = config.epochs * steps_per_epoch(config, tracks)
    bar = tqdm(total=total, initial=run.step, desc="VAE", unit="step", disable=not (progress and runtime.is_main()))
    log = checkpoints.Log(where.training_log, run.epoch)
    if run.step == 0:
        log.write({"epoch": 0, "data": tracks.source, "config": asdict(config), "machine": runtime.describe()})
    while run.epoch < config.epochs:
        parts = train_epoch(run, tracks, total, bar)
        log.write({"epoch": run.epoch, "seconds": round(run.seconds, 2), **parts})
        if run.epoch % config.checkpoint_every == 0 or run.epoch == config.epochs:
            if runtime.is_main():
                save_checkpoint(run, tracks, where, score, log)
                if on_checkpoint:
                    on_checkpoint(run)
            runtime.wait_for_all()
    bar.close()
    return run


def steps_per_epoch(config: AudioConfig, tracks: Tracks) -> int:
    """Steps in which as much sound is heard as one stem has."""
    samples = sum(stems.shape[-1] for stems in tracks.waveforms)
    return max(1, round(samples / (config.crop * config.batch_size)))


def train_epoch(run: Run, tracks: Tracks, total_steps: int, bar: tqdm) -> dict[str, dict[str, float]]:
    """One epoch. Returns the mean of each part of the objective in kbit/s, stem by stem."""
    began = time.perf_counter()
    totals = torch.zeros(len(STEMS), len(PARTS))
    count = 0
    with torch.random.fork_rng():
        torch.manual_seed(run.config.seed * 1_000_003 + run.epoch * runtime.world_size() + runtime.rank())
        for batch in batches(run.config, tracks, run.epoch):
            set_learning_rate(run, total_steps)
            totals += train_step(run, batch).cpu()
            count += 1
            run.step += 1
            bar.update()
    run.epoch += 1
    run.seconds += time.perf_counter() - began
    means = [
        {part: round(value, 4) for part, value in zip(PARTS, row, strict=True)} for row in (totals / count).tolist()
    ]
    return dict(zip(STEMS, means, strict=True))


def batches(config: AudioConfig, tracks: Tracks, epoch: int) -> Iterator[Batch]:
    """For each step of an epoch, crops of every stem, with random gains, and the SDRs to code them at. Among several
    processes each gets its share of every batch."""
    stream = runtime.random_stream(config.seed, epoch)
    for _ in range(steps_per_epoch(config, tracks)):
        step = []
        for stem in range(len(STEMS)):
            crops = torch.stack([draw_crop(config, tracks, stem, stream) for _ in range(config.batch_size)])
            gains_db = _uniform(config.gain_range_db, config.batch_size, stream)
            sdr_db = _uniform(config.sdr_range_db, config.batch_size, stream)
            step.append((runtime.own_share(crops * 10 ** (gains_db[:, None] / 20)), runtime.own_share(sdr_db)))
        yield step


def draw_crop(config: AudioConfig, tracks: Tracks, stem: int, stream: torch.Generator) -> Tensor:
    """Samples (crop,) from a random place of a random track, played at a random speed."""
    length = round(config.crop * _uniform(config.speed_range, 1, stream).item())
    return change_speed(draw_excerpt(tracks, stem, length, stream), config.crop)


def change_speed(waveform: Tensor, samples: int) -> Tensor:
    """The waveform (samples',) in `samples` samples, faster and higher or slower and lower, by its Fourier series."""
    spectrum = torch.fft.rfft(waveform)
    return torch.fft.irfft(spectrum[: samples // 2 + 1], samples) * (samples / len(waveform))


def _uniform(bounds: tuple[float, float], count: int, stream: torch.Generator) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(count, generator=stream)


def train_step(run: Run, batch: Batch) -> Tensor:
    """Update model and average once. Returns the parts of the objective in kbit/s: (stems, parts)."""
    run.model.train()
    run.optimiser.zero_grad()
    parts = []
    for stem, (waveforms, sdr_db) in enumerate(batch):
        parts.append(objective(run.model, waveforms.to(runtime.device()), stem, sdr_db.to(runtime.device())))
        parts[-1].sum().backward()
    runtime.average_gradients(run.model)
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.config.gradient_norm)
    run.optimiser.step()
    # The average follows fast at first, so that the random start is forgotten.
    runtime.update_average(run.average, run.model, min(run.config.ema_decay, (1 + run.step) / (10 + run.step)))
    return torch.stack(parts).detach()


def objective(model: vae.StemVAE, waveforms: Tensor, stem: int, sdr_db: Tensor) -> Tensor:
    """The parts of the negative evidence lower bound of waveforms (batch, samples), as kbit/s of audio, mean over the
    batch, in the order of `PARTS`.

    The last is no part of it: a wide Gaussian likelihood of the log-mel spectrogram. Below the water level the bound is
    indifferent to the decoded mel, but what is filled in with noise there, and whatever is sampled, follows it.
    """
    config = model.config
    level = vae.water_level(model.log_mel(waveforms), sdr_db, config)
    coded = model(waveforms, stem, level)
    mel_distance = ((coded.log_mel - coded.decoded_mel) / config.mel_deviation_db).square()
    nats = (coded.distortion.sum() / 2, coded.mel_divergence.sum(), coded.fine_divergence.sum(), mel_distance.sum() / 2)
    return torch.stack(nats) / (waveforms.numel() / config.sample_rate * vae.NATS_PER_KBIT)


def set_learning_rate(run: Run, total_steps: int) -> None:
    """Constant after a short rise, then linearly to zero over the last `decay_fraction` of the run."""
    left = 1 - run.step / total_steps
    rise = (run.step + 1) / 50
    for group in run.optimiser.param_groups:
        group["lr"] = run.config.learning_rate * min(1.0, rise, left / max(run.config.decay_fraction, 1e-9))


def save_checkpoint(
    run: Run, tracks: Tracks, where: paths.AudioPaths, score: Score | None, log: checkpoints.Log
) -> None:
    """Score the averaged model, then write the best weights and, last, the training state."""
    scores = {"epoch": run.epoch, "training_seconds": round(run.seconds, 1)}
    scores |= score(run.average) if score else {}
    run.scores.append(scores)
    if "objective_kbit_s" not in scores or scores is min(run.scores, key=lambda row: row["objective_kbit_s"]):
        checkpoints.save_weights(where.weights, run.average.state_dict(), {"config": asdict(run.config), **scores})
    log.write(scores)  # after the weights: the last line of a log says that a run is finished
    checkpoints.save_state(where.checkpoint(run.epoch), run.state_dict() | {"data": tracks.source})
