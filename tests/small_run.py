"""A small training run of either half, as a process of its own: python tests/small_run.py TASK FOLDER CONFIG

It trains on noise, in float32 and with one thread, scores every checkpoint, and saves the weights of each process as
rank0.pt, rank1.pt ... CONFIG is a JSON object of settings that differ from those below.

TASK is image or audio, or audio-evaluate: the command `audio evaluate` on the audio run that FOLDER holds. The standard
output names each phase when it begins: training, scoring, writing, drawing; evaluating.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from src import cli, config, distributed, paths, runtime
from src.audio import benchmark, data
from src.audio import evaluation as audio_evaluation
from src.audio import training as audio_training
from src.audio.data import Tracks
from src.config import AudioConfig, AudioEvaluationConfig, EvaluationConfig, ImageConfig
from src.image import evaluation as image_evaluation
from src.image import training as image_training
from src.image.data import Digits

IMAGE = {"latent_dim": 8, "generator_width": 4, "discriminator_width": 4, "batch_size": 16, "checkpoint_every": 2}
AUDIO = {
    "mel_bands": 40, "latent_dim": 4, "mel_channels": 4, "mel_hidden": 16, "fine_channels": 6, "crop": 8192,
    "batch_size": 4, "checkpoint_every": 2, "tracks": None,
}  # fmt: skip


def image_run(folder: Path, settings: dict) -> torch.nn.Module:
    stream = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 1, 28, 28), dtype=torch.uint8, generator=stream)
    digits, run_paths = Digits(images, torch.arange(64) % 10, "noise"), paths.ImagePaths("run", folder)
    protocol = EvaluationConfig(count=40, seeds=(1, 2), splits=2, kid_subsets=2, kid_subset_size=20)
    scorer = image_evaluation.Scorer(digits, digits, protocol)
    config = ImageConfig(**IMAGE | settings)
    return train(image_training, config, digits, run_paths, scorer).generator


def audio_run(folder: Path, settings: dict) -> torch.nn.Module:
    config, tracks = AudioConfig(**AUDIO | settings), noise_tracks()
    run_paths = paths.AudioPaths("run", folder)
    return train(audio_training, config, tracks, run_paths, audio_evaluation.Scorer(tracks)).model


def noise_tracks(samples: int = 40_000) -> Tracks:
    stream = torch.Generator().manual_seed(0)
    waveforms = tuple(torch.randn(4, samples, generator=stream) / 10 for _ in range(3))
    return Tracks(waveforms, ("a", "b", "c"), AudioConfig().sample_rate, "noise")


def train(training, config, data, run_paths, scorer):
    def score(network: torch.nn.Module) -> dict:
        print("scoring", flush=True)
        scores = scorer.score_checkpoint(network)
        print("writing", flush=True)
        return scores

    def draw(run) -> None:
        print("drawing", flush=True)
        scorer.save_examples(run.average, run_paths, run.epoch)
        print("training", flush=True)

    print("training", flush=True)
    return training.train(config, data, run_paths, score if distributed.is_main() else None, draw, progress=False)


def audio_evaluate(folder: Path) -> int:
    """The command on tracks of noise, by a small protocol."""
    protocol = AudioEvaluationConfig(
        curve_sdr_db=(8.0, 14.0), perceptual_sdr_db=(8.0,), calibration_sdr_db=(8.0,), calibration_fills=(0.5,),
        tracks=1,
    )  # fmt: skip
    config.AUDIO_PROFILES["quick"] = (config.AUDIO_PROFILES["quick"][0], protocol)
    for module in (data, audio_evaluation):
        module.load_musdb18 = lambda split, sample_rate: replace(noise_tracks(67_000), sample_rate=sample_rate)
    audio_paths = paths.AudioPaths
    paths.AudioPaths = lambda run: audio_paths(run, folder)
    benchmark.RUNS = 1
    print("evaluating", flush=True)
    return cli.main(["audio", "evaluate", "--profile", "quick", "--run", "run", "--overwrite"])


def start(task: str, folder: Path, settings: dict, processes: int = 1, **options) -> subprocess.Popen:
    """Start this file in a process of its own, or in several by torchrun. `options` are those of `Popen`."""
    folder.mkdir(exist_ok=True)
    several = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}")
    command = (sys.executable, *(several if processes > 1 else ()), __file__, task, str(folder), json.dumps(settings))
    environment = {**os.environ, "PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=paths.ROOT, env=environment, **options)


if __name__ == "__main__":
    task, folder, settings = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(1)
    runtime.device = lambda: torch.device("cpu")
    runtime.has_fast_bfloat16 = lambda device: False
    if task == "audio-evaluate":
        sys.exit(audio_evaluate(folder))
    with distributed.process_group():
        network = {"image": image_run, "audio": audio_run}[task](folder, settings)
        torch.save([p.detach() for p in network.parameters()], folder / f"rank{distributed.rank()}.pt")
