"""InceptionV3 with random weights: the real ones cannot be packaged."""

import http.server
import threading
from functools import partial

import pytest
import torch
from torch_fidelity import feature_extractor_inceptionv3
from torchmetrics.image.fid import NoTrainInceptionV3

from src.errors import CheckpointError, DownloadError
from src.image.inception import Inception


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(NoTrainInceptionV3, "load_state_dict", lambda *_: None)
        network = NoTrainInceptionV3("inception-v3-compat", ["2048"])
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


def test_inception_reads_digits_from_given_weights(inception_weights):
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    features, logits = Inception(inception_weights).describe(images, batch_size=2)
    assert features.shape == (3, 2048)
    assert logits.shape == (3, 1008)


def test_inception_downloads_its_weights(inception_weights, monkeypatch, tmp_path):
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=inception_weights.parent)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/weights.pth"
        monkeypatch.setattr(feature_extractor_inceptionv3, "URL_INCEPTION_V3", address)
        images = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
        downloaded, given = Inception(), Inception(inception_weights)
        assert torch.equal(downloaded.describe(images)[0], given.describe(images)[0])
        server.shutdown()


def test_wrong_inception_weights_are_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing\.pth does not exist"):
        Inception(tmp_path / "nothing.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth is not torch-fidelity's InceptionV3"):
        Inception(tmp_path / "other.pth")


def test_a_page_in_place_of_the_weights_is_a_failed_download(monkeypatch, tmp_path):
    (tmp_path / "weights.pth").write_text("<html>Please log in</html>")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/weights.pth"
        monkeypatch.setattr(feature_extractor_inceptionv3, "URL_INCEPTION_V3", address)
        with pytest.raises(DownloadError, match="something else than the weights"):
            Inception()
        server.shutdown()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
