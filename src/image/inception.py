"""The InceptionV3 that defines FID in the literature. Optional: its weights need a download."""

from pathlib import Path

import torch
from torch import Tensor
from torch_fidelity import feature_extractor_inceptionv3
from tqdm.auto import tqdm

from src import checkpoints, downloads, files, runtime
from src.errors import CheckpointError, DownloadError
from src.paths import relative


class Inception:
    """torch-fidelity's InceptionV3, a port of the network that defined FID: 2048 features and 1008 logits.

    `weights` is a file of its weights; None downloads them (about 90 MB).

    Raises:
        CheckpointError: `weights` is missing, damaged or of another network.
        DownloadError: the download fails, or brings something else.
    """

    def __init__(self, weights: Path | None = None):
        weights = weights or _download()
        checkpoints.load_state(weights)  # refuses code in the file, which torch-fidelity would run
        try:
            self.network = feature_extractor_inceptionv3.FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
            )
        except RuntimeError as error:
            raise CheckpointError(f"{relative(weights)} is not torch-fidelity's InceptionV3") from error
        self.network.eval().to(runtime.device())

    @torch.inference_mode()
    def describe(self, images: Tensor, batch_size: int = 50) -> tuple[Tensor, Tensor]:
        """Features (count, 2048) and logits (count, 1008) of uint8 images (count, 1, 28, 28)."""
        parts = []
        for batch in tqdm(images.split(batch_size), desc="Inception", leave=False):
            colour = batch.expand(-1, 3, -1, -1).to(runtime.device())
            parts.append([output.cpu() for output in self.network(colour)])
        features, logits = (torch.cat(column) for column in zip(*parts, strict=True))
        return features, logits


def _download() -> Path:
    """The file of the weights in torch's cache, downloaded if it is not there. Raises DownloadError."""
    url = feature_extractor_inceptionv3.URL_INCEPTION_V3
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not path.is_file():
        downloads.download([url], path)
        try:
            checkpoints.load_state(path)
        except CheckpointError as error:  # for example the page of a network that asks for a login
            files.delete(path)
            raise DownloadError(f"{url} sent something else than the weights of InceptionV3") from error
    return path
