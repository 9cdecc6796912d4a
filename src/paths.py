"""The layout of the repository: every folder and file name that the code reads or writes."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MNIST = ROOT / "data" / "MNIST" / "raw"
MUSDB18 = ROOT / "data" / "MUSDB18"
MUSDB18_CACHE = ROOT / "data" / "MUSDB18_decoded"
RESULTS = ROOT / "RESULTS.md"


@dataclass(frozen=True)
class ImagePaths:
    """Where one image run keeps its files.

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
        return self._folder("image_checkpoints")

    @property
    def samples(self) -> Path:
        return self._folder("generated_images")

    @property
    def metrics_folder(self) -> Path:
        return self._folder("metrics")

    def checkpoint(self, epoch: int) -> Path:
        """Training state after `epoch` epochs."""
        return self.checkpoints / f"epoch_{epoch:03d}.pt"

    def grid(self, epoch: int) -> Path:
        """Sample grid of the checkpoint after `epoch` epochs: always the same latents."""
        return self.samples / f"epoch_{epoch:03d}.png"

    @property
    def generator(self) -> Path:
        """Published weights: the averaged generator of the best checkpoint."""
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


PUBLISHED = ImagePaths()


def relative(path: Path) -> str:
    """`path` as shown to people: relative to the repository where it lies inside, with forward slashes."""
    path = Path(path)
    return (path.relative_to(ROOT) if path.is_relative_to(ROOT) else path).as_posix()
