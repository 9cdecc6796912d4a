"""The loop: closed forms of its parts, exact resume, checkpoints and log."""

import math
import time
from dataclasses import replace

import pytest
import torch

from src import checkpoints, paths, training_loop
from src.audio import losses, training, vae
from src.audio.data import Tracks
from src.config import STEMS, AudioConfig
from src.errors import CheckpointError
from tests import small_run
from tests.campaigns import kills

SMALL = AudioConfig(
    sample_rate=4000, mel_bands=16, mel_window=256, mel_hop=64, mdct_bins=(64, 256, 128, 128), latent_dim=4,
    mel_channels=2, mel_hidden=8, fine_channels=4, epochs=4, crop=1024, batch_size=2, checkpoint_every=2,
)  # fmt: skip


@pytest.fixture
def tracks() -> Tracks:
    """Two tracks of four noises, each with a loudness of its own."""
    loudness = torch.tensor([0.3, 0.1, 0.2, 0.05])[:, None]
    return Tracks((torch.randn(4, 5000) * loudness, torch.randn(4, 4000) * loudness), ("a", "b"), 4000, "noise")


def assert_same_bits(first: training.Run, second: training.Run) -> None:
    for part in ("model", "average"):
        ours, theirs = (getattr(run, part).state_dict() for run in (first, second))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_objective_of_white_noise_is_its_closed_form(monkeypatch):
    """ln(P / D) / 2 nats of rate and half a nat of distortion a sample, where the mel is known and nothing learned."""
    model = vae.StemVAE(SMALL).eval()
    waveforms = torch.randn(4, 20_000) * 0.1
    monkeypatch.setattr(model.mel, "decode", lambda latent, stems, frames: model.log_mel(waveforms))
    with torch.no_grad():
        distortion, mel_rate, fine_rate, mel_likelihood = losses.objective(
            model, waveforms, STEMS.index("other"), torch.full((4,), 20.0)
        ).tolist()
    kbit = 4000 / 1000 / math.log(2)
    assert distortion == pytest.approx(0.5 * kbit, rel=0.1)
    assert fine_rate == pytest.approx(math.log(100) / 2 * kbit, rel=0.1)
    assert mel_rate > 0
    assert mel_likelihood == 0


def test_changed_speed_moves_a_tone_and_keeps_its_height():
    tone = torch.sin(2 * math.pi * 50 * torch.arange(1100) / 1100)
    for samples in (1000, 1100, 1200):
        expected = torch.sin(2 * math.pi * 50 * torch.arange(samples) / samples)
        torch.testing.assert_close(training.change_speed(tone, samples), expected, atol=1e-4, rtol=0)


def test_batches_depend_on_seed_and_epoch_alone_and_avoid_silence(tracks):
    tracks.waveforms[0][3] = 0.0  # of the vocals, one track is silent

    def first(epoch: int, seed: int = 0) -> torch.Tensor:
        return next(training.batches(replace(SMALL, seed=seed), tracks, epoch))[3][0]

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2)) and not torch.equal(first(1), first(1, seed=1))
    for batch in training.batches(SMALL, tracks, 0):
        assert len(batch) == len(STEMS)
        for waveforms, sdr_db in batch:
            assert waveforms.shape == (2, 1024) and (waveforms.square().mean(1) > 1e-4).all()
            assert (sdr_db >= 6).all() and (sdr_db <= 26).all()


def test_a_track_shorter_than_a_crop_is_padded(tracks):
    short = Tracks((torch.randn(4, 300),), ("a",), 4000, "noise")
    crop = training.draw_crop(SMALL, short, 0, torch.Generator())
    assert crop.shape == (1024,) and crop.abs().max() > 0


def test_training_lowers_the_objective(tracks):
    run = training.start(replace(SMALL, learning_rate=5e-3))
    waveforms, sdr_db = torch.randn(2, 1024) * 0.1, torch.full((2,), 10.0)
    totals = []
    for _ in range(40):
        torch.manual_seed(0)
        totals.append(training.train_step(run, [(waveforms, sdr_db)] * len(STEMS)).sum().item())
    assert totals[-1] < 0.95 * totals[0]


def test_checkpoints_log_and_best_weights(tracks, tmp_path):
    run_paths = paths.AudioPaths("trial", tmp_path)
    rates = iter([5.0, 3.0, 4.0])
    run = training.train(
        replace(SMALL, epochs=5), tracks, run_paths, lambda _: {"objective_kbit_s": next(rates)}, progress=False
    )
    assert [row["epoch"] for row in run.scores] == [2, 4, 5]
    assert training_loop.finished(run_paths)
    history = training_loop.read_history(run_paths)
    assert [row["epoch"] for row in history["training"]["losses"]] == [1, 2, 3, 4, 5]
    assert set(history["training"]["losses"][0]["drums"]) == set(losses.TERMS)
    best, described = checkpoints.load_weights(run_paths.weights)
    assert described["epoch"] == 4
    state = checkpoints.load_state(checkpoints.state_path(run_paths, 4))["average"]
    assert all(torch.equal(best[name], state[name]) for name in state)


def test_a_checkpoint_alone_rebuilds_its_model(tracks, tmp_path):
    run_paths = paths.AudioPaths("trial", tmp_path)
    run = training.train(replace(SMALL, epochs=2), tracks, run_paths, progress=False)
    of_state, published = (vae.load_model(path) for path in (checkpoints.state_path(run_paths, 2), run_paths.weights))
    assert of_state.config == published.config == run.config
    assert all(torch.equal(part, run.average.state_dict()[name]) for name, part in of_state.state_dict().items())
    assert all(torch.equal(part, run.average.state_dict()[name]) for name, part in published.state_dict().items())


def test_resumed_run_has_the_bits_of_one_never_stopped(tracks, tmp_path):
    straight, broken = paths.AudioPaths("straight", tmp_path), paths.AudioPaths("broken", tmp_path)
    whole = training.train(SMALL, tracks, straight, progress=False)

    class Stop(Exception):
        pass

    def stop(model: vae.StemVAE) -> dict:
        if training_loop.read_history(broken)["training"]["epochs"] == 4:
            raise Stop
        return {"objective_kbit_s": 1.0}

    with pytest.raises(Stop):
        training.train(SMALL, tracks, broken, score=stop, progress=False)
    assert checkpoints.states(broken) == [checkpoints.state_path(broken, 2)]
    torch.manual_seed(99)  # whatever was drawn meanwhile must not matter
    assert_same_bits(whole, training.train(SMALL, tracks, broken, progress=False))


@pytest.mark.slow
def test_run_killed_twice_and_resumed_has_the_bits_of_one_never_stopped(tmp_path):
    """`python -m tests.campaigns.kills` does this many times."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert kills.start("audio", whole, epochs=4).wait() == 0
    run_paths = paths.AudioPaths("run", killed)
    for seen in (checkpoints.state_path(run_paths, 2), run_paths.reconstruction(4, "drums")):
        process = kills.start("audio", killed, epochs=4)
        while process.poll() is None and not seen.is_file():
            time.sleep(0.01)
        process.kill()
        assert process.wait() < 0  # not finished before
    assert kills.start("audio", killed, epochs=4).wait() == 0
    assert kills.content("audio", killed) == kills.content("audio", whole)


def test_a_run_of_another_configuration_is_not_gone_on_with(tracks, tmp_path):
    run_paths = paths.AudioPaths("trial", tmp_path)
    training.train(replace(SMALL, epochs=2), tracks, run_paths, progress=False)
    with pytest.raises(CheckpointError, match="latent_dim 4, now 6"):
        training.train(replace(SMALL, latent_dim=6), tracks, run_paths, progress=False)


def losses_of(folder) -> list[float]:
    rows = training_loop.read_history(paths.AudioPaths("run", folder))["training"]["losses"]
    return [value for row in rows for stem in STEMS for value in row[stem].values()]


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this build of torch has no torch.distributed")
def test_two_processes_train_as_one_does(tmp_path):
    """Noise is drawn for the whole batch and then shared out, and there is no batch norm."""
    for processes in (1, 2):
        run = small_run.start("audio", tmp_path / f"{processes}", {"epochs": 2}, processes)
        assert run.wait(timeout=300) == 0
    first, second = (torch.load(tmp_path / "2" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert losses_of(tmp_path / "2") == pytest.approx(losses_of(tmp_path / "1"), rel=1e-3, abs=2e-4)


def test_a_step_clips_the_gradient_and_moves_the_average(tracks):
    run = training.start(replace(SMALL, max_gradient_norm=1e-3))
    before = {name: tensor.clone() for name, tensor in run.average.state_dict().items()}
    training.train_step(run, next(iter(training.batches(run.config, tracks, 0))))
    norms = torch.stack([parameter.grad.norm() for parameter in run.model.parameters() if parameter.grad is not None])
    assert norms.norm().item() == pytest.approx(1e-3, rel=1e-3)
    for name, tensor in run.average.state_dict().items():
        torch.testing.assert_close(tensor, 0.1 * before[name] + 0.9 * run.model.state_dict()[name])
