"""The loop: closed forms of its parts, exact resume, kill and resume, several processes."""

import json
import os
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from src import checkpoints, paths
from src.image import generate, training


def weights_of(run: training.Run) -> list[torch.Tensor]:
    return [tensor for part in (run.generator, run.discriminator, run.average) for tensor in part.state_dict().values()]


def assert_same_bits(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    assert len(first) == len(second)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_gradient_penalty_of_a_linear_discriminator_is_its_squared_norm():
    weight = torch.randn(28 * 28)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 1), nn.Flatten(0))
    with torch.no_grad():
        linear[1].weight.copy_(weight)
    penalty = training.squared_gradient(linear, torch.randn(4, 1, 28, 28))
    assert penalty.item() == pytest.approx(weight.square().sum().item(), rel=1e-5)


def test_learning_rate_is_constant_then_falls_to_zero(small_config):
    run = training.start(replace(small_config, decay_fraction=0.6))
    rates = []
    for step in (0, 39, 40, 70, 100):
        run.step = step
        training.set_learning_rate(run, total_steps=100)
        rates.append(run.generator_optimiser.param_groups[0]["lr"] / small_config.learning_rate)
    assert rates == pytest.approx([1, 1, 1, 0.5, 0])


def test_epochs_visit_every_image_once_in_an_order_of_their_own(small_config):
    images = torch.arange(64, dtype=torch.uint8).view(64, 1, 1, 1).expand(-1, 1, 28, 28)

    def order(epoch: int) -> list[float]:
        return torch.cat([real[:, 0, 0, 0] for real, _ in training.batches(small_config, images, epoch)]).tolist()

    assert order(0) == order(0) != order(1)
    assert sorted(order(0)) == sorted(order(1))
    assert len(set(order(0))) == 64


def test_discriminator_learns_to_tell_and_generator_changes(small_config, blobs):
    config = replace(small_config, epochs=1, batch_size=8)
    run = training.start(config)
    before = [parameter.clone() for parameter in run.generator.parameters()]
    for real, latents in training.batches(config, blobs.images, 0):
        losses = training.train_step(run, real, latents)
    assert torch.isfinite(losses).all()
    assert not any(torch.equal(a, b) for a, b in zip(before, run.generator.parameters(), strict=True))


def test_checkpoints_log_grid_and_best_weights(small_config, blobs, tmp_path):
    where = paths.ImagePaths("trial", tmp_path)
    fids = iter([5.0, 3.0, 4.0])
    run = training.train(small_config, blobs, where, lambda _: {"fid_mnist": next(fids)}, progress=False)
    assert [row["epoch"] for row in run.scores] == [2, 4, 6]
    assert sorted(path.name for path in where.checkpoints.glob("*.pt")) == [f"epoch_00{e}.pt" for e in (2, 4, 6)]
    assert all(where.grid(epoch).is_file() for epoch in (2, 4, 6))
    history = checkpoints.read_history(where)
    assert [row["epoch"] for row in history["training"]["losses"]] == [1, 2, 3, 4, 5, 6]
    assert [row["fid_mnist"] for row in history["checkpoints"]] == [5.0, 3.0, 4.0]
    best, described = checkpoints.load_weights(where.weights)
    assert described["epoch"] == 4
    assert_same_bits(list(best.values()), [checkpoints.load_state(where.checkpoint(4))["average"][key] for key in best])


def test_a_checkpoint_alone_rebuilds_its_generator(small_config, blobs, tmp_path):
    where = paths.ImagePaths("trial", tmp_path)
    run = training.train(replace(small_config, epochs=2), blobs, where, progress=False)
    rebuilt = generate.load_generator(where.checkpoint(2))
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
    assert [row["epoch"] for row in checkpoints.read_history(broken)["training"]["losses"]] == [1, 2, 3, 4, 5, 6]


def test_another_configuration_is_refused(small_config, blobs, tmp_path):
    where = paths.ImagePaths("trial", tmp_path)
    training.train(replace(small_config, epochs=2), blobs, where, progress=False)
    with pytest.raises(checkpoints.CheckpointError, match=r"seed 0, now 1.*--run"):
        training.train(replace(small_config, epochs=2, seed=1), blobs, where, progress=False)
    with pytest.raises(checkpoints.CheckpointError, match=r"data blobs, now MNIST"):
        training.train(replace(small_config, epochs=2), replace(blobs, source="MNIST"), where, progress=False)


def test_a_run_goes_on_from_its_latest_epoch_by_number(tmp_path):
    where = paths.ImagePaths("trial", tmp_path)
    where.checkpoints.mkdir(parents=True)
    for epoch in (995, 1000, 5):
        where.checkpoint(epoch).touch()
    assert checkpoints.latest(where) == where.checkpoint(1000)


def test_the_packaged_sample_never_trains_into_a_profiles_own_folders(blobs, tmp_path):
    assert checkpoints.find_run(paths.ImagePaths("full", tmp_path), complete=False).run == "full-sample"
    assert checkpoints.find_run(paths.ImagePaths("full", tmp_path), complete=True).run == "full"


def test_a_run_is_finished_when_its_last_epoch_is_scored(small_config, blobs, tmp_path):
    where = paths.ImagePaths("trial", tmp_path)
    assert not checkpoints.finished(where)

    def not_yet(run: training.Run) -> None:
        assert checkpoints.finished(where) == (run.epoch == small_config.epochs)

    training.train(small_config, blobs, where, on_checkpoint=not_yet, progress=False)
    assert checkpoints.finished(where)
    where.weights.unlink()
    assert not checkpoints.finished(where)


def test_a_log_without_an_epoch_is_named(tmp_path):
    with pytest.raises(checkpoints.CheckpointError, match="train this run first"):
        checkpoints.read_history(paths.ImagePaths("trial", tmp_path))


SCRIPT = textwrap.dedent(
    """
    import json, sys
    from pathlib import Path
    import torch
    from src import paths, runtime
    from src.config import ImageConfig
    from src.image import training
    from src.image.data import Digits

    torch.set_num_threads(1)
    runtime.device = lambda: torch.device("cpu")
    config = ImageConfig(**json.loads(sys.argv[1]))
    stream = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 1, 28, 28), dtype=torch.uint8, generator=stream)
    runtime.start_processes()
    where = paths.ImagePaths("run", Path(sys.argv[2]))
    run = training.train(config, Digits(images, torch.zeros(64), "noise"), where, progress=False)
    torch.save([p.detach() for p in run.generator.parameters()], Path(sys.argv[2]) / f"rank{runtime.rank()}.pt")
    runtime.stop_processes()
    """
)
SMALL = {"latent_dim": 8, "generator_width": 4, "discriminator_width": 4, "batch_size": 16, "checkpoint_every": 2}


def start_script(tmp_path, folder: str, config: dict, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    (tmp_path / folder).mkdir(exist_ok=True)
    command = [sys.executable, *launcher, str(script), json.dumps(config), str(tmp_path / folder)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(paths.ROOT)})


def test_killed_and_resumed_run_has_the_bits_of_one_never_stopped(tmp_path):
    config = {**SMALL, "epochs": 40}
    assert start_script(tmp_path, "whole", config).wait(timeout=300) == 0
    folder = paths.ImagePaths("run", tmp_path / "killed").checkpoints
    kills = 0
    for delay in torch.rand(3, generator=torch.Generator().manual_seed(time.time_ns() % 2**31)).tolist():
        process = start_script(tmp_path, "killed", config)
        seen = len(list(folder.glob("epoch_*.pt")))
        while process.poll() is None and len(list(folder.glob("epoch_*.pt"))) <= seen:
            time.sleep(0.01)
        time.sleep(delay / 4)
        process.kill()
        kills += process.wait() != 0
    assert kills >= 1
    assert start_script(tmp_path, "killed", config).wait(timeout=300) == 0
    for epoch in (20, 40):
        whole, killed = (
            checkpoints.load_state(paths.ImagePaths("run", tmp_path / name).checkpoint(epoch))
            for name in ("whole", "killed")
        )
        for part in ("generator", "discriminator", "average"):
            assert_same_bits(list(whole[part].values()), list(killed[part].values()))


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this build of torch has no torch.distributed")
def test_two_processes_keep_the_same_weights(tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    assert start_script(tmp_path, "two", {**SMALL, "epochs": 2}, launcher).wait(timeout=300) == 0
    first, second = (torch.load(tmp_path / "two" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_same_bits(first, second)
    assert start_script(tmp_path, "one", {**SMALL, "epochs": 2}).wait(timeout=300) == 0
    alone = torch.load(tmp_path / "one" / "rank0.pt", weights_only=True)
    # Batch norm sees half the batch in each process, so the result is near the single process's, not equal to it.
    distance = sum((a - b).norm() for a, b in zip(alone, first, strict=True))
    assert 0 < distance < 0.5 * sum(a.norm() for a in alone)
