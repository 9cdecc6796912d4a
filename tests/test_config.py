"""What configurations refuse, and how profiles adapt to a small data set."""

from dataclasses import asdict

import pytest

from src.config import AudioConfig, audio_profile


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mel_hop": 300}, "mel_hop is 300: it must be a power of 2"),
        ({"mel_hop": 0}, "mel_hop is 0"),
        ({"mdct_bins": (256,)}, r"mdct_bins is \(256,\): for each of drums, bass, other, vocals"),
        ({"mdct_bins": (256, 4096, 1024, 1024)}, "it must be a power of 2 from mel_hop, 256, to 2048"),
        ({"mdct_bins": (128, 256, 256, 256)}, "it must be a power of 2 from mel_hop, 256, to 2048"),
        ({"mel_bands": 81}, "mel_bands is 81: it must be a multiple of 8"),
        ({"tracks": 0}, "tracks is 0: it must be at least 1"),
        ({"epochs": 0}, "epochs is 0: it must be at least 1"),
        ({"seed": -1}, "seed is -1: it must not be negative"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        AudioConfig(**change)


def test_config_survives_json():
    config = AudioConfig(seed=3)
    assert AudioConfig(**{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}) == config


def test_a_profile_makes_as_many_steps_on_one_track_as_on_all():
    assert audio_profile("quick", 80)[0].epochs == 2
    assert audio_profile("quick", 1)[0].epochs == 2 * audio_profile("quick", 80)[0].tracks
    assert audio_profile("full", 1)[0].epochs == 80 * audio_profile("full", 80)[0].epochs
