"""Learning rate, averaging, log and history: closed forms, and the order in which a run is resumed."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from tqdm import tqdm

from src import paths, training_loop
from src.config import ImageConfig
from src.errors import CheckpointError


@pytest.mark.parametrize(
    ("warm_up_steps", "steps", "expected"),
    [(0, (0, 39, 40, 70, 100), (1, 1, 1, 0.5, 0)), (5, (0, 1, 4, 5, 40, 70), (0.2, 0.4, 1, 1, 1, 0.5))],
)
def test_learning_rate_rises_stays_and_falls_to_zero(warm_up_steps, steps, expected):
    rates = [training_loop.learning_rate(step, 100, 1e-3, warm_up_steps, decay_fraction=0.6) for step in steps]
    assert rates == pytest.approx([1e-3 * factor for factor in expected])


def test_learning_rate_without_decay_is_constant():
    assert {training_loop.learning_rate(step, 100, 1e-3, 0, decay_fraction=0.0) for step in range(100)} == {1e-3}


def test_average_follows_its_closed_form():
    model, average = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.constant_(model.weight, 1.0)
    nn.init.constant_(average.weight, 0.0)
    model.running_mean.fill_(3.0)
    model.num_batches_tracked.fill_(7)
    for _ in range(3):
        training_loop.update_average(average, model, decay=0.9)
    assert average.weight.tolist() == pytest.approx([1 - 0.9**3] * 2)
    assert average.running_mean.tolist() == pytest.approx([3 * (1 - 0.9**3)] * 2)
    assert average.num_batches_tracked == 7


def test_averaging_forgets_the_start_quickly_and_then_keeps_its_decay():
    assert training_loop.averaging_decay(0, 0.999) == 0.1
    assert training_loop.averaging_decay(90, 0.999) == pytest.approx(0.91)
    assert training_loop.averaging_decay(10**6, 0.999) == 0.999


def test_the_log_drops_entries_of_epochs_that_run_again(tmp_path):
    log = training_loop.Log(tmp_path / "log.jsonl", epoch=0)
    log.write({"epoch": 0, "config": {}})
    for epoch in (1, 2, 3):
        log.write({"epoch": epoch})
    training_loop.Log(tmp_path / "log.jsonl", epoch=2).write({"epoch": 3, "again": True})
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert lines == ['{"epoch": 0, "config": {}}', '{"epoch": 1}', '{"epoch": 2}', '{"epoch": 3, "again": true}']


def test_a_log_without_an_epoch_is_named(tmp_path):
    run_paths = paths.ImagePaths("trial", tmp_path)
    with pytest.raises(CheckpointError, match="train this run first"):
        training_loop.read_history(run_paths)
    training_loop.Log(run_paths.training_log, epoch=0).write({"epoch": 0, "config": {"epochs": 1}})
    with pytest.raises(CheckpointError, match="holds no epoch: train this run first"):
        training_loop.read_history(run_paths)
    run_paths.weights.parent.mkdir(parents=True)
    run_paths.weights.touch()
    assert not training_loop.finished(run_paths)


def test_the_packaged_sample_never_trains_into_a_profiles_own_folders(tmp_path):
    assert training_loop.find_run(paths.ImagePaths("full", tmp_path), complete=False).run == "full-sample"
    assert training_loop.find_run(paths.ImagePaths("full", tmp_path), complete=True).run == "full"


@pytest.mark.parametrize("content", ["", "{", '{"epoch": 0}\n{"epo'])
def test_a_damaged_log_is_one_clear_error(tmp_path, content):
    run_paths = paths.ImagePaths("trial", tmp_path)
    run_paths.training_log.parent.mkdir(parents=True)
    run_paths.training_log.write_text(content)
    with pytest.raises(CheckpointError, match=r"image_training\.jsonl (is damaged|holds no epoch)"):
        training_loop.read_history(run_paths)
    if content:
        with pytest.raises(CheckpointError, match="is damaged"):
            training_loop.Log(run_paths.training_log, epoch=2)


def test_a_lost_log_begins_anew_and_says_so(tmp_path):
    run_paths = paths.ImagePaths("trial", tmp_path)
    with pytest.warns(UserWarning, match=r"image_training\.jsonl is missing: the new log begins after epoch 4"):
        log = training_loop.Log(run_paths.training_log, epoch=4)
    assert log.lines == []


@pytest.mark.parametrize(
    "content", ["[1]", '{"epoch": "one"}', '{"loss": 1}', '{"epoch": 0}', '{"epoch": 0, "config": 3}']
)
def test_a_log_with_other_content_is_damaged(tmp_path, content):
    run_paths = paths.ImagePaths("trial", tmp_path)
    run_paths.training_log.parent.mkdir(parents=True)
    run_paths.training_log.write_text(content + "\n")
    with pytest.raises(CheckpointError, match=r"image_training\.jsonl is damaged"):
        training_loop.read_history(run_paths)


@dataclass
class StubRun(training_loop.Run):
    config: ImageConfig
    optimiser: torch.optim.Optimizer
    PARTS = ("optimiser",)


def stub_run(epoch: int = 0) -> StubRun:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=9.0)
    return StubRun(ImageConfig(learning_rate=0.5, warm_up_steps=2, decay_fraction=0.5), optimiser, epoch=epoch)


def losses_of_an_epoch(epoch: int) -> torch.Tensor:
    bar = tqdm(disable=True)
    return training_loop.train_epoch(stub_run(epoch), range(3), lambda run, batch: torch.rand(1), 10, bar)[0]


def test_the_noise_of_a_step_depends_on_the_epoch_and_on_nothing_else():
    first = losses_of_an_epoch(0)
    torch.rand(7)
    assert torch.equal(losses_of_an_epoch(0), first)
    assert not torch.equal(losses_of_an_epoch(1), first)


def test_every_step_has_its_learning_rate():
    rates = []
    run = stub_run()

    def train_step(run: StubRun, batch: int) -> torch.Tensor:
        rates.append(run.optimiser.param_groups[0]["lr"])
        return torch.zeros(1)

    _, steps = training_loop.train_epoch(run, range(8), train_step, 8, tqdm(disable=True))
    assert steps == run.step == 8 and run.epoch == 1
    assert rates == pytest.approx([0.25, 0.5, 0.5, 0.5, 0.5, 0.375, 0.25, 0.125])
