"""What configurations refuse, and how profiles adapt to a small data set."""

import json
from dataclasses import asdict

import pytest

from src.config import AudioConfig, ClassifierConfig, ImageConfig, StemClassifierConfig, audio_profile, from_json
from src.errors import CheckpointError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mel_hop": 300}, "mel_hop is 300: it must be a power of 2"),
        ({"mel_hop": 0}, "mel_hop is 0"),
        ({"mel_window": 3}, "mel_window is 3: it must be at least 256"),
        ({"sample_rate": 0}, "sample_rate is 0: it must be at least 1000"),
        ({"mel_bands": 0}, "mel_bands is 0: it must be at least 1"),
        ({"mdct_bins": (256,)}, r"mdct_bins is \(256,\): for each of drums, bass, other, vocals"),
        ({"mdct_bins": (256, 4096, 1024, 1024)}, "it must be a power of 2 from mel_hop, 256, to 2048"),
        ({"mdct_bins": (128, 256, 256, 256)}, "it must be a power of 2 from mel_hop, 256, to 2048"),
        ({"mel_bands": 81}, "mel_bands is 81: it must be a multiple of 8"),
        ({"tracks": 0}, "tracks is 0: it must be at least 1"),
        ({"epochs": 0}, "epochs is 0: it must be at least 1"),
        ({"seed": -1}, "seed is -1: it must lie between 0 and 4294967295"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        AudioConfig(**change)


def test_config_survives_json():
    config = AudioConfig(seed=3)
    assert from_json(AudioConfig, json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize(
    ("kind", "absent"),
    [
        (ImageConfig, {"warm_up_steps": 0}),
        (AudioConfig, {"beta1": 0.9, "warm_up_steps": 50}),
        (ClassifierConfig, {"label_smoothing": 0.0}),
        (StemClassifierConfig, {"label_smoothing": 0.05}),
    ],
)
def test_a_field_that_an_old_file_lacks_means_what_was_true_then(kind, absent, monkeypatch):
    content = {name: value for name, value in asdict(kind()).items() if name not in absent}
    config = from_json(kind, content)
    assert {name: getattr(config, name) for name in absent} == absent
    content["seed"] = 5  # what the file says wins over what is known of old files
    assert from_json(kind, content).seed == 5


def test_a_field_of_a_former_name_is_read():
    content = asdict(AudioConfig())
    content["gradient_norm"], content["mel_deviation_db"] = 7.0, 11.0
    del content["max_gradient_norm"], content["mel_loss_std_db"]
    config = from_json(AudioConfig, content)
    assert (config.max_gradient_norm, config.mel_loss_std_db) == (7.0, 11.0)


def test_unknown_and_missing_fields_are_named():
    content = asdict(ImageConfig()) | {"layers": 3}
    del content["latent_dim"]
    with pytest.raises(CheckpointError, match=r"unknown fields layers, missing fields latent_dim"):
        from_json(ImageConfig, content)


def test_a_profile_makes_as_many_steps_on_one_track_as_on_all():
    assert audio_profile("quick", 80)[0].epochs == 2
    assert audio_profile("quick", 1)[0].epochs == 2 * audio_profile("quick", 80)[0].tracks
    assert audio_profile("full", 1)[0].epochs == 80 * audio_profile("full", 80)[0].epochs
