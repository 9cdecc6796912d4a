"""The layout of the repository: every folder and file name that the code reads or writes."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MNIST = ROOT / "data" / "MNIST" / "raw"
MUSDB18 = ROOT / "data" / "MUSDB18"
MUSDB18_EXAMPLES = ROOT / "data" / "MUSDB18_examples"
MUSDB18_CACHE = ROOT / "data" / "MUSDB18_decoded"
RESULTS = ROOT / "RESULTS.md"


@dataclass(frozen=True)
class RunPaths:
    """Where one training run keeps its files.

    The run `full` owns the top folders, whose files are committed; any other run keeps to a sub-folder of its own name
    in each of them, so that trying something never touches the published results.
    """

    run: str = "full"
    root: Path = ROOT

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+", self.run) or self.run == "figures":
            raise ValueError(f"{self.run!r} cannot name a run: use letters, digits, - and _")

    def _folder(self, name: str) -> Path:
        return self.root / name if self.run == "full" else self.root / name / self.run

    @property
    def checkpoints(self) -> Path:
        """Folder of the training states."""
        raise NotImplementedError

    @property
    def weights(self) -> Path:
        """Published weights: the averaged model of the best checkpoint."""
        raise NotImplementedError

    @property
    def training_log(self) -> Path:
        """Losses of each epoch and scores of each checkpoint, one JSON object a line."""
        raise NotImplementedError

    def checkpoint(self, epoch: int) -> Path:
        """Training state after `epoch` epochs."""
        return self.checkpoints / f"epoch_{epoch:03d}.pt"


@dataclass(frozen=True)
class ImagePaths(RunPaths):
    """The files of a DCGAN's run."""

    @property
    def checkpoints(self) -> Path:
        return self._folder("image_checkpoints")

    @property
    def samples(self) -> Path:
        return self._folder("generated_images")

    @property
    def metrics_folder(self) -> Path:
        return self._folder("metrics")

    def grid(self, epoch: int) -> Path:
        """Sample grid of the checkpoint after `epoch` epochs: always the same latents."""
        return self.samples / f"epoch_{epoch:03d}.png"

    @property
    def weights(self) -> Path:
        return self.checkpoints / "generator.safetensors"

    @property
    def classifier(self) -> Path:
        """Reference classifier, shared by all runs."""
        return self.root / "image_checkpoints" / "classifier.safetensors"

    @property
    def training_log(self) -> Path:
        return self.metrics_folder / "image_training.jsonl"

    @property
    def metrics(self) -> Path:
        return self.metrics_folder / "image_metrics.json"

    @property
    def ablation(self) -> Path:
        return self.metrics_folder / "image_ablation.json"

    @property
    def benchmark(self) -> Path:
        return self.metrics_folder / "benchmark.json"

    @property
    def figures(self) -> Path:
        return self.metrics_folder / "figures"


@dataclass(frozen=True)
class AudioPaths(RunPaths):
    """The files of a stem VAE's run."""

    @property
    def checkpoints(self) -> Path:
        return self._folder("audio_checkpoints")

    @property
    def reconstructions(self) -> Path:
        return self._folder("reconstructed_audio")

    @property
    def generated(self) -> Path:
        return self._folder("generated_audio")

    @property
    def spectrograms(self) -> Path:
        return self._folder("spectrograms")

    @property
    def results(self) -> Path:
        return self._folder("audio_results")

    @property
    def weights(self) -> Path:
        return self._folder("final_audio_model") / "model.safetensors"

    @property
    def classifier(self) -> Path:
        """Stem classifier, shared by all runs."""
        return self.root / "audio_checkpoints" / "classifier.safetensors"

    def reconstruction(self, epoch: int, stem: str) -> Path:
        """A validation excerpt as the checkpoint after `epoch` epochs regenerates it: always the same one."""
        return self.reconstructions / f"epoch_{epoch:03d}_{stem}.flac"

    def spectrogram(self, epoch: int) -> Path:
        """Log-mel spectrograms of those excerpts, as heard and as decoded."""
        return self.spectrograms / f"epoch_{epoch:03d}.png"

    @property
    def training_log(self) -> Path:
        return self.results / "audio_training.jsonl"

    @property
    def metrics(self) -> Path:
        return self.results / "audio_metrics.json"

    @property
    def figures(self) -> Path:
        return self.results / "figures"


IMAGE = ImagePaths()
AUDIO = AudioPaths()


def relative(path: Path) -> str:
    """`path` as shown to people: relative to the repository where it lies inside, with forward slashes."""
    path = Path(path)
    return (path.relative_to(ROOT) if path.is_relative_to(ROOT) else path).as_posix()
