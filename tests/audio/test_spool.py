"""Arrays on disk give back what was appended, in pieces."""

from pathlib import Path

import pytest
import torch

from src.audio.spectrogram import MelSpectrogram
from src.audio.spool import Spool, pieces
from src.audio.water_filling import water_level
from src.errors import OutputError


@pytest.mark.parametrize("rest", [(), (3,)])
def test_a_spool_reads_as_the_tensor_that_was_appended(tmp_path, rest):
    array = torch.randn(2, 100, *rest, generator=torch.Generator().manual_seed(0))
    with Spool(tmp_path) as spool:
        for part in array.split(33, dim=1):
            spool.append(part)
        assert spool.shape == array.shape and len(spool) == 2
        for stretch in (slice(0, 100), slice(31, 70), slice(90, 200), slice(100, 120)):
            assert torch.equal(spool[:, stretch], array[:, stretch])
        assert torch.equal(torch.cat(list(pieces(spool, 7)), dim=1), array)


def test_the_water_level_of_a_spectrogram_on_disk_is_that_of_the_tensor(tmp_path, monkeypatch):
    monkeypatch.setattr("src.audio.water_filling.FRAMES_AT_ONCE", 10)
    mel = MelSpectrogram(22050, 40, 1024, 256)
    log_mel = torch.randn(2, 57, 40, generator=torch.Generator().manual_seed(0)) * 10 - 40
    targets = torch.tensor([10.0, 20.0])
    with Spool(tmp_path) as spool:
        spool.append(log_mel)
        found = water_level(spool, targets, mel)
    torch.testing.assert_close(found, water_level(log_mel, targets, mel), atol=1e-5, rtol=0)


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    with pytest.raises(OutputError, match="cannot hold temporary files"):
        Spool(tmp_path / "missing")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_clear_line(tmp_path):
    with Spool(tmp_path) as spool, open("/dev/full", "wb", buffering=0) as full:
        spool.file = full
        with pytest.raises(OutputError, match="No space"):
            spool.append(torch.zeros(1, 10))
