"""The layout of the repository: every folder and file name that the code reads or writes.

The training states in a folder of checkpoints have their names from `checkpoints.state_path`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from src.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
MNIST = ROOT / "data" / "MNIST" / "raw"
MUSDB18 = ROOT / "data" / "MUSDB18"
MUSDB18_EXAMPLES = ROOT / "data" / "MUSDB18_examples"
MUSDB18_CACHE = ROOT / "data" / "MUSDB18_decoded"
RESULTS = ROOT / "RESULTS.md"


@dataclass(frozen=True)
class RunPaths:
    """The files of one training run.

    The run `full` owns the top folders, whose files are committed. Any other run uses a sub-folder of its own name in
    each of them, so it never touches the published results.

    Raises:
        UsageError: `run` is not a valid folder name.
    """

    run: str = "full"
    root: Path = ROOT

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]{1,100}", self.run) or self.run in ("figures", "flow"):
            raise UsageError(f"{self.run!r} cannot name a run: use up to 100 letters, digits, - and _")

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
        """JSON lines: one object with the losses of each epoch, and one with the scores of each checkpoint."""
        raise NotImplementedError

    @property
    def metrics(self) -> Path:
        """Recorded scores."""
        raise NotImplementedError


@dataclass(frozen=True)
class ImagePaths(RunPaths):
    """The files of a DCGAN's training run."""

    @property
    def checkpoints(self) -> Path:
        """Folder of the training states."""
        return self._folder("image_checkpoints")

    @property
    def samples(self) -> Path:
        """Folder of generated digits."""
        return self._folder("generated_images")

    @property
    def metrics_folder(self) -> Path:
        """Folder of everything measured."""
        return self._folder("metrics")

    def grid(self, epoch: int) -> Path:
        """Sample grid of the checkpoint after `epoch` epochs; every checkpoint shows the same latents."""
        return self.samples / f"epoch_{epoch:03d}.png"

    @property
    def weights(self) -> Path:
        """Published weights: the averaged generator of the best checkpoint."""
        return self.checkpoints / "generator.safetensors"

    @property
    def unconditional(self) -> Path:
        """Weights of a generator that was trained without labels, for comparison."""
        return self.root / "image_checkpoints" / "unconditional.safetensors"

    @property
    def classifier(self) -> Path:
        """Reference digit classifier, shared by all runs."""
        return self.root / "image_checkpoints" / "classifier.safetensors"

    @property
    def training_log(self) -> Path:
        """JSON lines: one object with the losses of each epoch, and one with the scores of each checkpoint."""
        return self.metrics_folder / "image_training.jsonl"

    @property
    def metrics(self) -> Path:
        """Recorded scores of `image evaluate`."""
        return self.metrics_folder / "image_metrics.json"

    @property
    def ablation(self) -> Path:
        """Recorded table of `image ablate`."""
        return self.metrics_folder / "image_ablation.json"

    @property
    def benchmark(self) -> Path:
        """Recorded timings of `image bench`."""
        return self.metrics_folder / "benchmark.json"

    @property
    def figures(self) -> Path:
        """Folder of the figures in RESULTS.md."""
        return self.metrics_folder / "figures"


@dataclass(frozen=True)
class AudioPaths(RunPaths):
    """The files of a stem VAE's training run."""

    @property
    def checkpoints(self) -> Path:
        """Folder of the training states."""
        return self._folder("audio_checkpoints")

    @property
    def reconstructions(self) -> Path:
        """Folder of the reconstructed excerpts."""
        return self._folder("reconstructed_audio")

    @property
    def generated(self) -> Path:
        """Folder of generated audio."""
        return self._folder("generated_audio")

    @property
    def spectrograms(self) -> Path:
        """Folder of the excerpts' spectrograms."""
        return self._folder("spectrograms")

    @property
    def results(self) -> Path:
        """Folder of everything measured."""
        return self._folder("audio_results")

    @property
    def weights(self) -> Path:
        """Published weights: the averaged model of the best checkpoint."""
        return self._folder("final_audio_model") / "model.safetensors"

    @property
    def classifier(self) -> Path:
        """Reference stem classifier, shared by all runs."""
        return self.root / "audio_checkpoints" / "classifier.safetensors"

    def reconstruction(self, epoch: int, stem: str) -> Path:
        """A validation excerpt, reconstructed by the checkpoint after `epoch` epochs; always the same excerpt."""
        return self.reconstructions / f"epoch_{epoch:03d}_{stem}.flac"

    def original(self, stem: str) -> Path:
        """The validation excerpt itself."""
        return self.reconstructions / f"original_{stem}.flac"

    def spectrogram(self, epoch: int) -> Path:
        """Log-mel spectrograms of those excerpts: of the originals, and decoded from `z_mel`."""
        return self.spectrograms / f"epoch_{epoch:03d}.png"

    @property
    def training_log(self) -> Path:
        """JSON lines: one object with the losses of each epoch, and one with the scores of each checkpoint."""
        return self.results / "audio_training.jsonl"

    @property
    def metrics(self) -> Path:
        """Recorded scores of `audio evaluate`."""
        return self.results / "audio_metrics.json"

    @property
    def partial_metrics(self) -> Path:
        """Finished parts of an `audio evaluate` that is running or was interrupted."""
        return self.results / "audio_metrics.partial.json"

    @property
    def figures(self) -> Path:
        """Folder of the figures in RESULTS.md."""
        return self.results / "figures"


@dataclass(frozen=True)
class FlowPaths(AudioPaths):
    """The files of a stem flow's training run."""

    @property
    def checkpoints(self) -> Path:
        """Folder of the training states."""
        return self._folder("audio_checkpoints") / "flow"

    @property
    def weights(self) -> Path:
        """Published weights: the averaged model of the best checkpoint."""
        return self._folder("final_audio_model") / "flow.safetensors"

    @property
    def training_log(self) -> Path:
        """JSON lines: one object with the loss of each epoch, and one with the scores of each checkpoint."""
        return self.results / "flow_training.jsonl"

    @property
    def metrics(self) -> Path:
        """Recorded scores of `audio evaluate-flow`."""
        return self.results / "flow_metrics.json"

    @property
    def partial_metrics(self) -> Path:
        """Finished parts of an `audio evaluate-flow` that is running or was interrupted."""
        return self.results / "flow_metrics.partial.json"


IMAGE = ImagePaths()
AUDIO = AudioPaths()
FLOW = FlowPaths()
FLOW_AGAIN = FLOW.results / "flow_metrics_again.json"  # scores of a second training of the flow, on a CPU
CLAIMS = ROOT / "metrics" / "claims.json"  # figures of the project that this one reimplements


def relative(path: Path) -> str:
    """`path` as shown to people: relative to the repository if it lies inside, with forward slashes."""
    path = Path(path)
    return (path.relative_to(ROOT) if path.is_relative_to(ROOT) else path).as_posix()
