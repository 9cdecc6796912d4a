"""A small training run of either half, as a process of its own: python tests/small_run.py HALF FOLDER CONFIG

It trains on noise, in float32 and with one thread, scores every checkpoint, and saves the weights of each process as
rank0.pt, rank1.pt ... CONFIG is a JSON object of settings that differ from those below.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from src import distributed, paths, runtime
from src.audio import evaluation as audio_evaluation
from src.audio import training as audio_training
from src.audio.data import Tracks
from src.config import AudioConfig, EvaluationConfig, ImageConfig
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
    judge = image_evaluation.Judge(digits, protocol)
    config = ImageConfig(**IMAGE | settings)
    return train(image_training, config, digits, run_paths, judge).generator


def audio_run(folder: Path, settings: dict) -> torch.nn.Module:
    stream = torch.Generator().manual_seed(0)
    waveforms = tuple(torch.randn(4, 40_000, generator=stream) / 10 for _ in range(3))
    config = AudioConfig(**AUDIO | settings)
    tracks, run_paths = Tracks(waveforms, ("a", "b", "c"), config.sample_rate, "noise"), paths.AudioPaths("run", folder)
    return train(audio_training, config, tracks, run_paths, audio_evaluation.Judge(tracks)).model


def train(training, config, data, run_paths, judge):
    main = distributed.is_main()
    return training.train(
        config,
        data,
        run_paths,
        judge.score_checkpoint if main else None,
        lambda run: judge.illustrate(run.average, run_paths, run.epoch),
        progress=False,
    )


def start(half: str, folder: Path, settings: dict, processes: int = 1, **options) -> subprocess.Popen:
    """Start this file in a process of its own, or in several by torchrun."""
    folder.mkdir(exist_ok=True)
    several = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}")
    command = (sys.executable, *(several if processes > 1 else ()), __file__, half, str(folder), json.dumps(settings))
    environment = {**os.environ, "PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=paths.ROOT, env=environment, **options)


if __name__ == "__main__":
    half, folder, settings = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(1)
    runtime.device = lambda: torch.device("cpu")
    runtime.has_fast_bfloat16 = lambda device: False
    with distributed.process_group():
        network = {"image": image_run, "audio": audio_run}[half](folder, settings)
        torch.save([p.detach() for p in network.parameters()], folder / f"rank{distributed.rank()}.pt")
