"""The loop: closed forms of its parts, exact resume, kill and resume, several processes."""

import math
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from src import checkpoints, paths, training_loop
from src.errors import CheckpointError, UsageError
from src.image import dcgan, generate, losses, training
from src.image.data import Digits
from tests.small_run import start as start_run


def weights_of(run: training.Run) -> list[torch.Tensor]:
    return [tensor for part in (run.generator, run.discriminator, run.average) for tensor in part.state_dict().values()]


def assert_same_bits(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    assert len(first) == len(second)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_gradient_penalty_of_a_linear_discriminator_is_its_squared_norm():
    weight = torch.randn(28 * 28)

    def linear(images: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ weight + one_hot.sum(dim=1)

    penalty = losses.gradient_penalty(linear, torch.randn(4, 1, 28, 28), torch.randn(4, 10))
    assert penalty.item() == pytest.approx(weight.square().sum().item(), rel=1e-5)


def test_epochs_visit_every_image_once_in_an_order_of_their_own(small_config):
    images = torch.arange(64, dtype=torch.uint8).view(64, 1, 1, 1).expand(-1, 1, 28, 28)
    digits = Digits(images, torch.arange(64) % 10, "numbers")

    def order(epoch: int) -> list[int]:
        batches = list(training.batches(small_config, digits, epoch))
        numbers = torch.cat([((real[:, 0, 0, 0] + 1) * 127.5).round().long() for real, _, _ in batches])
        assert torch.equal(torch.cat([one_hot.argmax(1) for _, one_hot, _ in batches]), numbers % 10)
        return numbers.tolist()

    assert order(0) == order(0) != order(1)
    assert sorted(order(0)) == sorted(order(1))
    assert len(set(order(0))) == 64


def test_losses_of_a_discriminator_that_cannot_tell_are_their_closed_forms():
    zeros = torch.zeros(5)
    assert losses.discriminator_loss(zeros, zeros).item() == pytest.approx(2 * math.log(2))
    assert losses.generator_loss(zeros).item() == pytest.approx(math.log(2))


def test_losses_are_torchs_binary_cross_entropy():
    real, fake = torch.randn(7), torch.randn(7)
    ones, zeros = torch.ones(7), torch.zeros(7)
    cross_entropy = nn.functional.binary_cross_entropy_with_logits
    expected = cross_entropy(real, ones) + cross_entropy(fake, zeros)
    assert losses.discriminator_loss(real, fake).item() == pytest.approx(expected.item(), rel=1e-6)
    assert losses.generator_loss(fake).item() == pytest.approx(cross_entropy(fake, ones).item(), rel=1e-6)


def test_discriminator_learns_to_tell_and_generator_learns_to_deceive(small_config, blobs):
    """Each network alone, against the other as it was, lowers its own loss."""
    config = replace(small_config, epochs=1, batch_size=16, r1_weight=0.0)
    run = training.start(config)
    batch = next(training.batches(config, blobs, 0))
    run.generator_optimiser.param_groups[0]["lr"] = 0.0
    first = training.train_step(run, batch)
    for _ in range(30):
        last = training.train_step(run, batch)
    assert last[0] < 0.5 * first[0]
    run.generator_optimiser.param_groups[0]["lr"] = 5e-3
    run.discriminator_optimiser.param_groups[0]["lr"] = 0.0
    first = training.train_step(run, batch)
    for _ in range(30):
        last = training.train_step(run, batch)
    assert last[1] < 0.5 * first[1]


def test_the_penalty_is_averaged_over_the_steps_that_computed_it():
    assert training.mean_losses(torch.tensor([8.0, 4.0, 3.0, 2.0]), steps=8) == {
        "discriminator_loss": 1.0, "generator_loss": 0.5, "r1": 1.5
    }  # fmt: skip
    assert training.mean_losses(torch.tensor([8.0, 4.0, 0.0, 0.0]), steps=8)["r1"] == 0.0


def test_checkpoints_log_and_best_weights(small_config, blobs, tmp_path):
    run_paths = paths.ImagePaths("trial", tmp_path)
    fids = iter([5.0, 3.0, 4.0])
    drawn = []
    run = training.train(
        small_config, blobs, run_paths, lambda _: {"fid_mnist": next(fids)}, lambda run: drawn.append(run.epoch), False
    )
    assert [row["epoch"] for row in run.scores] == drawn == [2, 4, 6]
    assert sorted(path.name for path in run_paths.checkpoints.glob("*.pt")) == [f"epoch_00{e}.pt" for e in (2, 4, 6)]
    history = training_loop.read_history(run_paths)
    assert [row["epoch"] for row in history["training"]["losses"]] == [1, 2, 3, 4, 5, 6]
    assert [row["fid_mnist"] for row in history["checkpoints"]] == [5.0, 3.0, 4.0]
    best, described = checkpoints.load_weights(run_paths.weights)
    assert described["epoch"] == 4
    assert_same_bits(
        list(best.values()),
        [checkpoints.load_state(checkpoints.state_path(run_paths, 4))["average"][key] for key in best],
    )


def test_a_checkpoint_alone_rebuilds_its_generator(small_config, blobs, tmp_path):
    run_paths = paths.ImagePaths("trial", tmp_path)
    run = training.train(replace(small_config, epochs=2), blobs, run_paths, progress=False)
    rebuilt = dcgan.load_model(checkpoints.state_path(run_paths, 2))
    assert torch.equal(generate.sample(rebuilt, 4), generate.sample(run.average, 4))


def test_resumed_run_has_the_bits_of_one_never_stopped(small_config, blobs, tmp_path):
    straight, broken = paths.ImagePaths("straight", tmp_path), paths.ImagePaths("broken", tmp_path)
    whole = training.train(small_config, blobs, straight, lambda _: {"fid_mnist": 1.0}, progress=False)

    class Stop(Exception):
        pass

    def stop_at_4(run: training.Run) -> None:
        if run.epoch == 4:
            raise Stop

    with pytest.raises(Stop):
        training.train(small_config, blobs, broken, lambda _: {"fid_mnist": 1.0}, stop_at_4, progress=False)
    resumed = training.train(small_config, blobs, broken, lambda _: {"fid_mnist": 1.0}, progress=False)
    assert_same_bits(weights_of(whole), weights_of(resumed))
    assert [row["epoch"] for row in training_loop.read_history(broken)["training"]["losses"]] == [1, 2, 3, 4, 5, 6]


def test_another_configuration_is_refused(small_config, blobs, tmp_path):
    run_paths = paths.ImagePaths("trial", tmp_path)
    training.train(replace(small_config, epochs=2), blobs, run_paths, progress=False)
    with pytest.raises(CheckpointError, match=r"seed 0, now 1.*--run"):
        training.train(replace(small_config, epochs=2, seed=1), blobs, run_paths, progress=False)
    with pytest.raises(CheckpointError, match=r"data blobs, now MNIST"):
        training.train(replace(small_config, epochs=2), replace(blobs, source="MNIST"), run_paths, progress=False)


def test_a_run_goes_on_from_its_latest_epoch_by_number(tmp_path):
    run_paths = paths.ImagePaths("trial", tmp_path)
    run_paths.checkpoints.mkdir(parents=True)
    for epoch in (995, 1000, 5):
        checkpoints.state_path(run_paths, epoch).touch()
    for name in ("epoch_001 (1).pt", "epoch_best.pt", "epoch_.pt"):
        (run_paths.checkpoints / name).touch()
    assert checkpoints.states(run_paths) == [checkpoints.state_path(run_paths, epoch) for epoch in (1000, 995, 5)]


def test_a_torn_newest_state_is_skipped_with_a_warning(small_config, blobs, tmp_path):
    run_paths = paths.ImagePaths("trial", tmp_path)
    whole = training.train(small_config, blobs, run_paths, progress=False)
    newest = checkpoints.state_path(run_paths, 6)
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=r"epoch_006\.pt cannot be read.*Resuming from an earlier epoch"):
        again = training.train(small_config, blobs, run_paths, progress=False)
    assert_same_bits(weights_of(whole), weights_of(again))


@pytest.mark.parametrize("state", [{}, {"config": {}}, {"config": None, "data": "blobs"}, [1, 2], torch.zeros(3)])
def test_a_foreign_state_is_one_clear_error(small_config, blobs, tmp_path, state):
    run_paths = paths.ImagePaths("trial", tmp_path)
    run_paths.checkpoints.mkdir(parents=True)
    torch.save(state, checkpoints.state_path(run_paths, 2))
    with pytest.raises(CheckpointError, match=r"epoch_002\.pt is not a (dictionary|training state)|ImageConfig"):
        training.train(small_config, blobs, run_paths, progress=False)


def test_a_run_is_finished_when_its_last_epoch_is_scored(small_config, blobs, tmp_path):
    run_paths = paths.ImagePaths("trial", tmp_path)
    assert not training_loop.finished(run_paths)

    def only_at_the_end(run: training.Run) -> None:
        assert training_loop.finished(run_paths) == (run.epoch == small_config.epochs)

    training.train(small_config, blobs, run_paths, on_checkpoint=only_at_the_end, progress=False)
    assert training_loop.finished(run_paths)
    run_paths.weights.unlink()
    assert not training_loop.finished(run_paths)


@pytest.mark.slow
def test_killed_and_resumed_run_has_the_bits_of_one_never_stopped(tmp_path):
    settings = {"epochs": 40}
    assert start_run("image", tmp_path / "whole", settings).wait(timeout=300) == 0
    folder = paths.ImagePaths("run", tmp_path / "killed").checkpoints
    kills = 0
    for delay in torch.rand(3, generator=torch.Generator().manual_seed(0)).tolist():
        process = start_run("image", tmp_path / "killed", settings)
        seen = len(list(folder.glob("epoch_*.pt")))
        while process.poll() is None and len(list(folder.glob("epoch_*.pt"))) <= seen:
            time.sleep(0.01)
        time.sleep(delay / 4)
        process.kill()
        kills += process.wait() != 0
    assert kills >= 1
    assert start_run("image", tmp_path / "killed", settings).wait(timeout=300) == 0
    for epoch in (20, 40):
        whole, killed = (
            checkpoints.load_state(checkpoints.state_path(paths.ImagePaths("run", tmp_path / name), epoch))
            for name in ("whole", "killed")
        )
        for part in ("generator", "discriminator", "average"):
            assert_same_bits(list(whole[part].values()), list(killed[part].values()))


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this build of torch has no torch.distributed")
def test_two_processes_keep_the_same_weights(tmp_path):
    assert start_run("image", tmp_path / "two", {"epochs": 2}, processes=2).wait(timeout=300) == 0
    first, second = (torch.load(tmp_path / "two" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_same_bits(first, second)
    assert start_run("image", tmp_path / "one", {"epochs": 2}).wait(timeout=300) == 0
    # Batch norm sees half the batch in each process, so the losses are near the single process's, not equal to them.
    one, two = (
        training_loop.read_history(paths.ImagePaths("run", tmp_path / name))["training"]["losses"]
        for name in ("one", "two")
    )
    for name in ("discriminator_loss", "generator_loss"):
        assert two[-1][name] == pytest.approx(one[-1][name], rel=0.05) and two[-1][name] != one[-1][name]


def test_a_fault_while_drawing_loses_no_checkpoint_and_the_resumed_run_draws_it(small_config, blobs, tmp_path):
    run_paths = paths.ImagePaths("trial", tmp_path)

    def fail(run: training.Run) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        training.train(small_config, blobs, run_paths, on_checkpoint=fail, progress=False)
    assert checkpoints.states(run_paths) == [checkpoints.state_path(run_paths, 2)]
    drawn = []
    training.train(small_config, blobs, run_paths, on_checkpoint=lambda run: drawn.append(run.epoch), progress=False)
    assert drawn == [2, 4, 6]


def test_a_state_whose_tensors_do_not_fit_is_one_clear_error(small_config, blobs, tmp_path):
    run_paths = paths.ImagePaths("trial", tmp_path)
    run = training.train(replace(small_config, epochs=2), blobs, run_paths, progress=False)
    state = run.state_dict() | {"data": blobs.source}
    state["generator"] = {name: torch.zeros(1) for name in state["generator"]}
    state["config"]["epochs"] = small_config.epochs
    checkpoints.save_state(checkpoints.state_path(run_paths, 2), state)
    with pytest.raises(CheckpointError, match=r"epoch_002\.pt is not a training state"):
        training.train(small_config, blobs, run_paths, progress=False)


def test_fewer_images_than_a_batch_are_refused(small_config, blobs, tmp_path):
    with pytest.raises(UsageError, match="64 images are fewer than a batch of 65"):
        training.train(replace(small_config, batch_size=65), blobs, paths.ImagePaths("trial", tmp_path))


def test_a_step_applies_the_penalty_when_it_is_due_and_moves_the_average(small_config, blobs):
    """With r1_interval 2, the first step has the penalty and the second one has not."""
    changed = []
    for weight in (0.0, 100.0):
        run = training.start(replace(small_config, r1_weight=weight, ema_decay=0.0))
        rows = []
        for batch in list(training.batches(run.config, blobs, 0))[:2]:
            rows.append(training.train_step(run, batch).tolist())
            run.step += 1
        assert [row[3] for row in rows] == [float(weight > 0), 0.0]
        changed.append(run.discriminator.state_dict())
        for old, new in zip(run.average.state_dict().values(), run.generator.state_dict().values(), strict=True):
            torch.testing.assert_close(old, new)
    assert any(not torch.equal(changed[0][name], changed[1][name]) for name in changed[0])
