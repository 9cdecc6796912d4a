"""The audio commands: what they write, and one clear line for what they refuse."""

import numpy as np
import pytest
import soundfile
import torch

from src import checkpoints, cli, config, paths
from src.audio import data, evaluation, flow_evaluation, reconstruct
from src.audio.data import Tracks
from src.audio.sound_files import read_audio, write_audio
from src.config import AudioConfig, AudioEvaluationConfig, FlowConfig, FlowEvaluationConfig

RATE = 22050


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = cli.main([*map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def stereo(tmp_path):
    """A second of two tones at 44.1 kHz."""
    path = tmp_path / "stereo.wav"
    times = np.arange(44_100) / 44_100
    write_audio(path, np.stack([np.sin(times * 2 * np.pi * hertz) * 0.3 for hertz in (220, 330)]), 44_100)
    return path


def test_reconstruct_refuses_what_it_could_not_write_before_it_begins(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(reconstruct, "log_mel_blocks", lambda *_: pytest.fail("began"))
    write_audio(tmp_path / "fine.wav", np.zeros((1, 1000), np.float32), 96_000)
    status, _, error = run(capsys, "audio", "reconstruct", tmp_path / "fine.wav", tmp_path / "again.mp3")
    assert status == 1 and "MP3 cannot hold 1 channels at 96000 Hz: write WAV" in error


def test_reconstruct_keeps_length_rate_and_channels(capsys, tmp_path, stereo):
    output = tmp_path / "again.flac"
    status, out, _ = run(capsys, "audio", "reconstruct", stereo, output, "--stem", "bass", "--sdr", "20")
    assert status == 0
    assert "1.0 s, 2 channels, coded as bass at" in out
    original, (again, sample_rate) = read_audio(stereo)[0], read_audio(output)
    assert again.shape == original.shape and sample_rate == 44_100
    assert 10 * np.log10(np.square(original).sum() / np.square(original - again).sum()) > 12


def test_vary_and_continue_a_recording(capsys, tmp_path, stereo):
    varied, continued = tmp_path / "varied.wav", tmp_path / "continued.flac"
    status, out, _ = run(capsys, "audio", "generate", "--like", stereo, "--strength", 0.3, "--output", varied)
    assert status == 0 and "wrote a variation of" in out and "strength 0.3" in out
    assert read_audio(varied)[0].shape == (1, RATE)
    status, out, _ = run(
        capsys, "audio", "generate", "--continue", stereo, "--stem", "bass", "--seconds", 2, "--output", continued
    )
    assert status == 0 and "and 2 s more, as bass" in out
    assert read_audio(continued)[0].shape == (1, 3 * RATE)
    status, _, error = run(
        capsys, "audio", "generate", "--like", stereo, "--strength=2", "--output", tmp_path / "x.wav"
    )
    assert status == 1 and "between 0 and 1" in error


def test_generate_and_interpolate_write_sound(capsys, tmp_path, stereo):
    assert run(capsys, "audio", "generate", "--stem", "drums", "--seconds", 2, "--output", tmp_path / "a.wav")[0] == 0
    assert read_audio(tmp_path / "a.wav")[0].shape == (1, 2 * RATE)
    status, out, _ = run(
        capsys, "audio", "interpolate", tmp_path / "a.wav", stereo, "--steps", 3, "--output", tmp_path / "b.wav"
    )
    assert status == 0 and "wrote 3 steps of 1.0 s" in out
    assert read_audio(tmp_path / "b.wav")[0].shape == (1, 3 * RATE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "--run", "nowhere"), "audio_training.jsonl holds no epoch: train this run first"),
        (("evaluate", "--profile", "quick", "--overwrite"), "name another --run"),
        (("reconstruct", "nowhere.wav", "again.wav"), "nowhere.wav cannot be decoded (No such file"),
        (("reconstruct", "README.md", "again.wav"), "README.md cannot be decoded"),
        (("reconstruct", "a.wav", "again.mid"), "cannot write again.mid: end its name in .wav, .flac, .ogg, .mp3"),
        (("reconstruct", "a.wav", "README.md"), "README.md exists: add --overwrite"),
        (("generate", "--stem", "drums", "--seconds", "1e9", "--output", "a.wav"), "seconds is 1e+09"),
        (("generate", "--output", "a.wav"), "add --stem, or a recording with --like or --continue"),
        (("generate", "--like", "a.wav", "--output", "b.wav"), "a.wav cannot be decoded"),
        (("generate", "--stem", "bass", "--like", "", "--output", "b.wav"), "the value of --like is empty"),
        (("reconstruct", "", "a.wav"), "an argument is empty: leave it out"),
        (("generate", "--like", "a.wav", "--seconds", "3", "--output", "b.wav"), "as long as its recording"),
        (("generate", "--stem", "bass", "--strength", "0.3", "--output", "b.wav"), "--strength belongs to --like"),
        (("evaluate-flow", "--run", "nowhere"), "flow.safetensors does not exist"),
        (("evaluate-flow", "--profile", "quick", "--overwrite"), "name another --run"),
        (("train-flow", "--run", "new", "--epochs", "0"), "epochs is 0"),
        (("interpolate", "a.wav", "b.wav", "--output", "c.wav"), "a.wav cannot be decoded"),
        (("generate", "--stem", "drums", "--seed", "-1", "--output", "a.wav"), "seed is -1: it must lie between 0"),
        (("generate", "--stem", "drums", "--model", ".", "--output", "a.wav"), ". is a folder"),
        (("generate", "--stem", "drums", "--seed", 2**64, "--output", "a.wav"), f"seed is {2**64}: it must lie"),
        (("train", "--run", "new", "--epochs", "0"), "epochs is 0"),
        (("train", "--run", "new", "--seed", 2**32), f"seed is {2**32}"),
        (("train", "--run", "n" * 200), "cannot name a run"),
        (("reconstruct", "n" * 300 + ".wav", "a.wav"), "cannot be decoded (File name too long)"),
        (("reconstruct", "a.wav", "n" * 300 + ".wav"), "cannot be written (File name too long)"),
        (("train-classifier",), "exists: add --overwrite to replace it"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_1(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("no sound")
    status, out, err = run(capsys, "audio", *arguments)
    assert (status, out) == (1, "")
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize(
    "command",
    [
        ("reconstruct", "loud.wav", "out.wav"),
        ("generate", "--like", "loud.wav", "--output", "out.wav"),
        ("generate", "--continue", "loud.wav", "--output", "out.wav"),
        ("interpolate", "loud.wav", "loud.wav", "--output", "out.wav"),
    ],
)
def test_a_recording_of_another_scale_is_named(capsys, monkeypatch, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    soundfile.write("loud.wav", np.full(RATE, 16_384.0), RATE, subtype="FLOAT")
    status, _, err = run(capsys, "audio", *command)
    assert status == 1 and "loud.wav has a peak of 16384, but full scale is 1: divide samples" in err
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize(("sdr", "message"), [("-3", "between 0 and 60 dB"), ("nan", "between 0 and 60 dB")])
def test_a_target_out_of_range_is_refused(capsys, tmp_path, stereo, sdr, message):
    status, _, err = run(capsys, "audio", "reconstruct", stereo, tmp_path / "again.wav", f"--sdr={sdr}")
    assert status == 1 and message in err
    assert not (tmp_path / "again.wav").exists()


@pytest.fixture
def small(monkeypatch, tmp_path) -> paths.AudioPaths:
    """A repository in a temporary folder, two tracks of noise in each split, and a small profile."""
    stream = torch.Generator().manual_seed(0)
    waveforms = tuple(0.1 * torch.randn(4, 3 * RATE + 500, generator=stream) for _ in range(2))

    def load_musdb18(split: str, sample_rate: int) -> Tracks:
        return Tracks(waveforms, ("a", "b"), sample_rate, "MUSDB18-7s")

    for module in (data, evaluation):
        monkeypatch.setattr(module, "load_musdb18", load_musdb18)
    audio_paths = paths.AudioPaths
    monkeypatch.setattr(paths, "AudioPaths", lambda run: audio_paths(run, tmp_path))
    training = AudioConfig(
        latent_dim=4, mel_channels=2, mel_hidden=8, fine_channels=2, epochs=1, crop=16384, checkpoint_every=1
    )
    protocol = AudioEvaluationConfig(
        curve_sdr_db=(8.0, 14.0), perceptual_sdr_db=(8.0,), calibration_sdr_db=(8.0,), calibration_fills=(0.5,),
        tracks=1,
    )  # fmt: skip
    monkeypatch.setitem(config.AUDIO_PROFILES, "quick", (training, protocol))
    monkeypatch.setattr(config, "_lengthen", lambda settings, ratio: settings)
    return audio_paths("mine", tmp_path)


def interrupt(*arguments):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_train_then_evaluate(capsys, small, monkeypatch):
    status, out, _ = run(capsys, "audio", "train", "--profile", "quick", "--run", "mine")
    assert status == 0
    assert "epoch 1: negative ELBO" in out and "rates near 18.2 dB: drums" in out
    assert small.weights.is_file() and small.spectrogram(1).is_file() and small.reconstruction(1, "bass").is_file()
    measure = evaluation._resample_stem
    monkeypatch.setattr(evaluation, "_resample_stem", interrupt)
    assert run(capsys, "audio", "evaluate", "--profile", "quick", "--run", "mine")[0] == cli.INTERRUPTED
    assert small.partial_metrics.is_file() and not small.metrics.is_file()
    monkeypatch.setattr(evaluation, "_resample_stem", measure)
    status, out, _ = run(capsys, "audio", "evaluate", "--profile", "quick", "--run", "mine")
    assert status == 0 and "vocals  SDR" in out and small.metrics.is_file()
    assert (small.spectrograms / "regenerated_dark.png").is_file()
    assert "audio_metrics.partial.json, with 36 finished parts" in out and not small.partial_metrics.exists()
    status, out, _ = run(capsys, "audio", "evaluate", "--profile", "quick", "--model", checkpoints.state_path(small, 1))
    assert status == 0 and "wrote" not in out


@pytest.mark.slow
def test_train_a_flow_then_evaluate_it(capsys, monkeypatch, tmp_path):
    stream = torch.Generator().manual_seed(0)
    waveforms = tuple(0.1 * torch.randn(4, 4 * RATE, generator=stream) for _ in range(2))
    tracks = Tracks(waveforms, ("a", "b"), RATE, "MUSDB18-7s")
    for module in (data, flow_evaluation):
        monkeypatch.setattr(module, "load_musdb18", lambda split, sample_rate: tracks)
    flow_paths = paths.FlowPaths
    monkeypatch.setattr(paths, "FlowPaths", lambda run: flow_paths(run, tmp_path))
    training = FlowConfig(
        latent_dim=8, style_means=4, width=8, blocks=1, epochs=1, passes_per_epoch=1, checkpoint_every=1
    )
    protocol = FlowEvaluationConfig(count=2, seeds=(0,), neighbours=1, minutes=1, strengths=(0.5,))
    monkeypatch.setitem(config.FLOW_PROFILES, "quick", (training, protocol))
    monkeypatch.setattr(config, "_lengthen", lambda settings, ratio: settings)
    monkeypatch.setattr(flow_evaluation, "LONG_SECONDS", 41.0)
    mine = flow_paths("mine", tmp_path)
    status, out, _ = run(capsys, "audio", "train-flow", "--profile", "quick", "--run", "mine")
    assert status == 0 and "epoch 1: flow-matching loss" in out and mine.weights.is_file()
    measure = flow_evaluation.measure_joints
    monkeypatch.setattr(flow_evaluation, "measure_joints", interrupt)
    assert run(capsys, "audio", "evaluate-flow", "--profile", "quick", "--run", "mine")[0] == cli.INTERRUPTED
    assert mine.partial_metrics.is_file() and not mine.metrics.is_file()
    monkeypatch.setattr(flow_evaluation, "measure_joints", measure)
    status, out, _ = run(capsys, "audio", "evaluate-flow", "--profile", "quick", "--run", "mine")
    assert status == 0 and "with 8 finished parts" in out and mine.metrics.is_file()
    output = tmp_path / "a.wav"
    status, _, _ = run(
        capsys, "audio", "generate", "--stem", "bass", "--seconds", 1, "--model", mine.weights, "--output", output
    )
    assert status == 0 and read_audio(output)[0].shape == (1, RATE)
