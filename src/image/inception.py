"""The InceptionV3 that defines FID in the literature. Optional: its weights need a download."""

import socket
from pathlib import Path

import torch
from torch import Tensor
from torchmetrics.image.fid import NoTrainInceptionV3
from tqdm.auto import tqdm

from src import checkpoints, runtime
from src.downloads import TIMEOUT
from src.errors import CheckpointError


class Inception:
    """torch-fidelity's InceptionV3, a port of the network that defined FID: 2048 features and 1008 logits.

    `weights` is a file of its weights; None downloads them (about 90 MB).

    Raises:
        CheckpointError: `weights` is missing, damaged or of another network.
        OSError: the download fails.
    """

    def __init__(self, weights: Path | None = None):
        if weights:
            checkpoints.load_state(weights)  # refuses code in the file, which torch-fidelity would run
        previous = socket.getdefaulttimeout()
        socket.setdefaulttimeout(TIMEOUT)
        try:
            names = ["2048", "logits_unbiased"]
            self.network = NoTrainInceptionV3("inception-v3-compat", names, str(weights) if weights else None)
        except RuntimeError as error:
            source = weights or f"the file downloaded to {torch.hub.get_dir()}/checkpoints"
            raise CheckpointError(f"{source} does not hold torch-fidelity's InceptionV3") from error
        finally:
            socket.setdefaulttimeout(previous)
        self.network.to(runtime.device())

    @torch.inference_mode()
    def describe(self, images: Tensor, batch_size: int = 50) -> tuple[Tensor, Tensor]:
        """Features (count, 2048) and logits (count, 1008) of uint8 images (count, 1, 28, 28)."""
        parts = []
        for batch in tqdm(images.split(batch_size), desc="Inception", leave=False):
            colour = batch.expand(-1, 3, -1, -1).to(runtime.device())
            # This method returns all named outputs; forward() returns the first alone.
            parts.append([output.cpu() for output in self.network._torch_fidelity_forward(colour)])
        features, logits = (torch.cat(column) for column in zip(*parts, strict=True))
        return features, logits
