"""The training loop of both halves: epochs, resume, learning rate, averaging, order of a checkpoint, log."""

import json
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from src import checkpoints, config, distributed, runtime
from src.errors import CheckpointError
from src.files import save_text
from src.metric_tables import Metric
from src.paths import RunPaths, relative

Score = Callable[[nn.Module], dict[str, Any]]


@dataclass(kw_only=True)
class Run:
    """A training run between two steps: everything that an exact resume needs.

    A subclass adds its `config`, its networks and optimisers, and `average`, the exponential moving average of the
    published network.
    """

    epoch: int = 0  # epochs finished
    step: int = 0  # steps finished
    seconds: float = 0.0  # spent in training steps; evaluation and saving are not counted
    scores: list[dict] = field(default_factory=list)  # one row for each checkpoint

    NAME: ClassVar[str]  # label of the progress bar
    PARTS: ClassVar[tuple[str, ...]]  # names of the networks and optimisers
    BEST: ClassVar[Metric]  # decides which checkpoint is published
    HALF_PRECISION: ClassVar[bool] = False  # of the published weights
    COUNTERS: ClassVar[tuple[str, ...]] = ("epoch", "step", "seconds", "scores")

    def parts(self, kind: type) -> list:
        """The networks (`nn.Module`) or the optimisers (`torch.optim.Optimizer`)."""
        return [part for name in self.PARTS if isinstance(part := getattr(self, name), kind)]

    def state_dict(self) -> dict:
        """Networks, optimisers, counters and configuration, as `torch.load(weights_only=True)` accepts them."""
        parts = {name: getattr(self, name).state_dict() for name in self.PARTS}
        counters = {name: getattr(self, name) for name in self.COUNTERS}
        return parts | counters | {"config": asdict(self.config)}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])
        for name in self.COUNTERS:
            setattr(self, name, state[name])


def train(
    run: Run,
    run_paths: RunPaths,
    data_source: str,
    steps_per_epoch: int,
    batches: Callable[[int], Iterable],
    train_step: Callable[[Run, Any], Tensor],
    mean_losses: Callable[[Tensor, int], dict],
    score: Score | None = None,
    on_checkpoint: Callable[[Run], None] | None = None,
    progress: bool = True,
) -> Run:
    """Train `run` to `run.config.epochs`, from its latest checkpoint if it has one.

    `batches(epoch)` yields an epoch's batches. `train_step(run, batch)` updates the run and returns a tensor of losses.
    `mean_losses(sum of those, steps)` names their means for the log. `score(average)` evaluates a checkpoint, and
    `on_checkpoint(run)` may print and draw, also for the state that a run resumes from; both are called only on rank 0.

    Every `checkpoint_every` epochs and at the end, the scores, the best weights and the training state are saved.

    Raises:
        CheckpointError: the folder holds a run with another configuration or other data.
    """
    resume(run, run_paths, data_source)
    if run.epoch and on_checkpoint and distributed.is_main():
        on_checkpoint(run)  # its files may be missing if the earlier process was killed
    total_steps = run.config.epochs * steps_per_epoch
    log = Log(run_paths.training_log, run.epoch)
    if not log.lines:
        machine = runtime.describe_machine()
        log.write({"epoch": 0, "data": data_source, "config": asdict(run.config), "machine": machine})
    silent = not (progress and distributed.is_main())
    with tqdm(total=total_steps, initial=run.step, desc=run.NAME, unit="step", disable=silent) as bar:
        while run.epoch < run.config.epochs:
            losses, steps = train_epoch(run, batches(run.epoch), train_step, total_steps, bar)
            log.write({"epoch": run.epoch, "seconds": round(run.seconds, 2), **mean_losses(losses, steps)})
            if run.epoch % run.config.checkpoint_every == 0 or run.epoch == run.config.epochs:
                for network in run.parts(nn.Module):
                    distributed.average_buffers(network)
                if distributed.is_main():
                    save_checkpoint(run, run_paths, data_source, log, score, on_checkpoint)
                distributed.wait_for_all()
    return run


def train_epoch(
    run: Run, batches: Iterable, train_step: Callable[[Run, Any], Tensor], total_steps: int, bar: tqdm
) -> tuple[Tensor, int]:
    """One epoch. Returns the sum of the steps' losses, on the CPU, mean over the processes, and the number of steps."""
    began = time.perf_counter()
    losses: Tensor | float = 0.0
    first_step = run.step
    # The noise that a step draws depends only on (seed, epoch), so that resuming is exact and processes draw alike.
    with runtime.seeded(run.config.seed * 1_000_003 + run.epoch):
        for batch in batches:
            set_learning_rate(run, total_steps)
            losses = losses + train_step(run, batch)
            run.step += 1
            bar.update()
    losses = distributed.mean(losses).cpu()  # waits for an accelerator to finish
    run.epoch += 1
    run.seconds += time.perf_counter() - began
    return losses, run.step - first_step


def learning_rate(step: int, total_steps: int, peak: float, warm_up_steps: int, decay_fraction: float) -> float:
    """Learning rate of step `step`, counted from 0, of `total_steps`.

    It rises linearly over `warm_up_steps`, stays at `peak`, and falls linearly to zero over the last `decay_fraction`
    of the run.
    """
    rise = (step + 1) / warm_up_steps if warm_up_steps else 1.0
    fall = (1 - step / total_steps) / max(decay_fraction, 1e-9)
    return peak * min(1.0, rise, fall)


def set_learning_rate(run: Run, total_steps: int) -> None:
    """Set the learning rate of the next step in every optimiser of `run`."""
    settings = run.config
    rate = learning_rate(run.step, total_steps, settings.learning_rate, settings.warm_up_steps, settings.decay_fraction)
    for optimiser in run.parts(torch.optim.Optimizer):
        for group in optimiser.param_groups:
            group["lr"] = rate


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average <- decay average + (1 - decay) model, batch-norm statistics included; integer counters are copied."""
    for old, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)


def averaging_decay(step: int, decay: float) -> float:
    """Decay of the moving average after step `step`: small at first, to forget the random initialisation, then
    `decay`."""
    return min(decay, (1 + step) / (10 + step))


def save_checkpoint(
    run: Run,
    run_paths: RunPaths,
    data_source: str,
    log: "Log",
    score: Score | None,
    on_checkpoint: Callable[[Run], None] | None,
) -> None:
    """Score the averaged model, then write weights, log entry and training state, in this order: a run that is killed
    before the last of them repeats the epochs. `on_checkpoint` comes after them, so that its faults lose nothing; it is
    called again on resume.
    """
    scores = {"epoch": run.epoch, "training_seconds": round(run.seconds, 1)}
    # As plain JSON types, the only ones that the training state may hold.
    scores |= json.loads(json.dumps(score(run.average))) if score else {}
    run.scores.append(scores)
    if run.BEST not in scores or scores is run.BEST.best(run.scores):
        description = {"config": asdict(run.config), **scores}
        weights = run.average.state_dict()
        if run.HALF_PRECISION:
            weights = {name: part.half() if part.is_floating_point() else part for name, part in weights.items()}
        checkpoints.save_weights(run_paths.weights, weights, description)
    log.write(scores)  # after the weights: the last line of a log marks a run as finished
    checkpoints.save_state(checkpoints.state_path(run_paths, run.epoch), run.state_dict() | {"data": data_source})
    if on_checkpoint:
        on_checkpoint(run)


def resume(run: Run, run_paths: RunPaths, data_source: str) -> None:
    """Load the run's latest training state, if there is one. A damaged state is skipped, with a warning.

    Raises:
        CheckpointError: the state's configuration or data differ from the run's, or every state is damaged.
        UsageError: the processes of torchrun found different states.
    """
    if found := checkpoints.states(run_paths):
        path, state = _load_latest(found)
        try:
            saved = asdict(config.from_json(type(run.config), state["config"])) | {"data": state["data"]}
            wanted = asdict(run.config) | {"data": data_source}
            differences = [f"{key} {saved[key]}, now {wanted[key]}" for key in wanted if saved[key] != wanted[key]]
            if differences:
                raise CheckpointError(
                    f"{relative(path)} is of another run ({', '.join(differences)}): "
                    "choose another --run, or --overwrite to begin again"
                )
            run.load_state_dict(state)
        except CheckpointError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{relative(path)} is not a training state of this version of the project: --overwrite begins again"
            ) from error
        if distributed.is_main():
            print(f"going on from {relative(path)}")
    distributed.check_agreement(run.step, "the checkpoint that they resume from")


def _load_latest(found: list[Path]) -> tuple[Path, dict]:
    """The first of the states, from the latest to the first, that can be read."""
    for path in found[:-1]:
        try:
            return path, checkpoints.load_state(path)
        except CheckpointError as error:
            warnings.warn(f"{error}. Resuming from an earlier epoch.", stacklevel=3)
    return found[-1], checkpoints.load_state(found[-1])


# --- log and history ---


class Log:
    """The training log: one JSON object a line. Each entry rewrites the file, atomically.

    Entries after `epoch` are dropped on resume, because those epochs run again.
    """

    def __init__(self, path: Path, epoch: int):
        self.path = path
        entries = _read_log(path) if epoch and path.is_file() else []
        if epoch and not entries:
            warnings.warn(f"{relative(path)} is missing: the new log begins after epoch {epoch}", stacklevel=3)
        self.lines = [json.dumps(entry) for entry in entries if entry["epoch"] <= epoch]

    def write(self, entry: dict) -> None:
        """Append one object, on rank 0 alone."""
        if distributed.is_main():
            self.lines.append(json.dumps(entry))
            save_text(self.path, "\n".join(self.lines) + "\n")


def _read_log(path: Path) -> list[dict]:
    """The entries of a training log. Raises CheckpointError if it is damaged."""
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not all(isinstance(entry, dict) and isinstance(entry.get("epoch"), int) for entry in entries):
            raise ValueError("a line is not an object with an epoch")
        if entries and not isinstance(entries[0].get("config"), dict):
            raise ValueError("the first line has no configuration")
        return entries
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{relative(path)} is damaged ({error}): restore it, or train with --overwrite"
        ) from error


def find_run(run_paths: RunPaths, complete: bool) -> RunPaths:
    """`run_paths`, or its `-sample` twin if the data are the packaged sample (not `complete`) and `run_paths` is not
    finished."""
    return run_paths if complete or finished(run_paths) else replace(run_paths, run=f"{run_paths.run}-sample")


def finished(run_paths: RunPaths) -> bool:
    """True if a run's weights are published and its log ends with the scores of its last epoch."""
    if not (run_paths.weights.is_file() and run_paths.training_log.is_file()):
        return False
    lines = _read_log(run_paths.training_log)
    return bool(lines) and "training_seconds" in lines[-1] and lines[-1]["epoch"] == lines[0]["config"].get("epochs")


def read_history(run_paths: RunPaths) -> dict:
    """The log of a run as `training` (configuration, machine, epochs, seconds, losses of each epoch) and `checkpoints`
    (scores on the validation split).

    Raises:
        CheckpointError: there is no log, it is damaged, or it holds no epoch.
    """
    if run_paths.training_log.is_file():
        start, *lines = _read_log(run_paths.training_log) or [{}]
        if losses := [line for line in lines if "seconds" in line]:
            start.pop("epoch")
            training = start | {"epochs": losses[-1]["epoch"], "seconds": losses[-1]["seconds"], "losses": losses}
            return {"training": training, "checkpoints": [line for line in lines if "training_seconds" in line]}
    raise CheckpointError(f"{relative(run_paths.training_log)} holds no epoch: train this run first")
