"""The protocol of generated stems: known answers of its measures, and the whole of it on a small flow."""

import json

import numpy as np
import pytest
import torch

from src import files, paths
from src.audio import classifier, flow, flow_evaluation
from src.audio.data import Tracks
from src.config import STEMS, FlowConfig, FlowEvaluationConfig, StemClassifierConfig
from src.metric_tables import CLIP_METRICS

RATE = 22050


@pytest.fixture(scope="module")
def small_flow() -> flow.StemFlow:
    torch.manual_seed(1)
    model = flow.StemFlow(FlowConfig(latent_dim=8, style_means=4, width=8, blocks=1)).eval()
    model.mean[0] = 15.0  # about -30 dB
    model.rest_deviation.fill_(0.1)
    model.rest_weights.normal_(0, 0.02)
    return model


@pytest.fixture(scope="module")
def tracks() -> Tracks:
    stream = torch.Generator().manual_seed(0)
    loudness = torch.tensor([0.3, 0.1, 0.2, 0.05])[:, None]
    noises = [torch.randn(4, 7 * RATE, generator=stream) * loudness for _ in range(4)]
    return Tracks(tuple(noises), ("a", "b", "c", "d"), RATE, "noise")


def test_scores_are_summarised_by_mean_and_standard_deviation():
    assert flow_evaluation.summarise([{"x": 1.0}, {"x": 3.0}]) == {"x": [2.0, 1.4142]}
    assert flow_evaluation.summarise([{"x": 1.0}]) == {"x": [1.0, 0.0]}


def test_a_loop_repeats_itself_and_noise_does_not():
    torch.manual_seed(0)
    noise = torch.randn(1, 240, 20)
    loop = torch.randn(1, 60, 20).repeat(1, 4, 1)
    assert flow_evaluation.repetition(loop, 80.0).item() == pytest.approx(1, abs=0.02)
    assert flow_evaluation.repetition(noise, 80.0).item() < 0.1


def test_level_is_that_of_the_root_mean_square():
    times = np.arange(RATE) / RATE
    assert flow_evaluation.level_db(np.sin(2 * np.pi * 100 * times)) == pytest.approx(-3.01, abs=0.01)


def test_character_of_clicks_and_of_a_tone(small_flow):
    times = torch.arange(3 * RATE) / RATE
    tone = 0.5 * torch.sin(2 * torch.pi * 1000 * times)
    clicks = torch.zeros(3 * RATE)
    clicks[RATE // 4 :: RATE // 2] = 1.0
    steady, pulsed = (flow_evaluation.character(small_flow, sound[None]) for sound in (tone, clicks))
    assert steady["level_db"] == pytest.approx(-9.03, abs=0.05)
    assert steady["centroid_hz"] == pytest.approx(1000, rel=0.05)
    assert pulsed["onsets_per_second"] == pytest.approx(2, abs=0.4)
    assert pulsed["modulation_db"] > steady["modulation_db"] + 3
    assert pulsed["repetition"] > 0.9


def test_a_copy_of_a_training_excerpt_is_found_where_it_lies(small_flow, tracks):
    """Excerpts begin at every 8 mel frames."""
    frame = 16 * flow_evaluation.MEL_SHIFT
    copy = tracks.waveforms[2][1, frame * 256 : frame * 256 + 3 * RATE]
    other = torch.randn(3 * RATE) * 0.01
    (distance, track, begin), (far, _, _) = flow_evaluation.nearest_log_mels(
        small_flow, torch.stack([copy, other]), tracks, 1
    )
    assert (track, begin) == (2, frame)
    assert distance < 1 < far


def test_a_copy_through_a_latent_that_keeps_everything_sounds_like_its_excerpt(tracks):
    model = flow.StemFlow(FlowConfig(latent_dim=320, width=8, blocks=1)).eval()
    copies = flow_evaluation._copies(model, tracks, 2, torch.Generator().manual_seed(0))
    originals = flow_evaluation._draw_excerpts(tracks, 2, torch.Generator().manual_seed(0))
    pair = [model.log_mel(clips[1]).mean(dim=1) for clips in (copies, originals)]  # spectra of the basses
    assert copies[1].shape == originals[1].shape
    torch.testing.assert_close(pair[0], pair[1], atol=3.0, rtol=0)
    assert (pair[0][0] - pair[1][1]).abs().mean() > (pair[0][0] - pair[1][0]).abs().mean()


def test_a_change_of_level_is_seen_at_the_joint(small_flow):
    torch.manual_seed(0)
    noise = torch.randn(2 * RATE) * 0.1
    louder = torch.cat([noise[:RATE], noise[RATE:] * 2])
    level, spectrum = flow_evaluation._change(small_flow, louder, RATE)
    assert level == pytest.approx(6.02, abs=0.3)
    assert spectrum == pytest.approx(6.02, abs=0.7)
    assert flow_evaluation._change(small_flow, noise, RATE)[0] < 0.3


@pytest.mark.slow
def test_the_protocol_measures_each_part(small_flow, tracks, monkeypatch):
    torch.manual_seed(3)
    network = classifier.StemClassifier(StemClassifierConfig(width=2)).eval()
    monkeypatch.setattr(classifier, "load_classifier", lambda: network)
    monkeypatch.setattr(flow_evaluation, "load_musdb18", lambda split, rate: tracks)
    monkeypatch.setattr(flow_evaluation, "LONG_SECONDS", 41.0)
    monkeypatch.setattr(flow_evaluation, "JOINT_CLIPS", 1)
    protocol = FlowEvaluationConfig(count=3, seeds=(0, 1), neighbours=1, minutes=1, strengths=(0.0, 1.0))
    measured = flow_evaluation.evaluate(small_flow, protocol)
    assert json.loads(json.dumps(measured["scores"])) == measured["scores"]
    assert set(measured["scores"]) == {"generated", "training", "real", "real_through_griffin_lim"}
    near, far = measured["variations"]
    assert near["distance_db"] < far["distance_db"]
    assert set(measured["nearest"]) == {"closest", "generated", "real", "copies"}
    assert set(measured["nearest"]["closest"]) == set(measured["minute"]) == set(measured["character"]) == set(STEMS)
    for row in measured["minute"].values():
        assert (row["not_finite"], row["above_full_scale"]) == (0, 0)
    assert measured["joints"]["uncut"]["level_db"] < 1
    assert measured["speed"] > 0


def test_the_first_seed_is_measured_again(small_flow, tracks, monkeypatch, tmp_path):
    torch.manual_seed(3)
    network = classifier.StemClassifier(StemClassifierConfig(width=2)).eval()
    monkeypatch.setattr(classifier, "load_classifier", lambda: network)
    monkeypatch.setattr(flow_evaluation, "load_musdb18", lambda split, rate: tracks)
    monkeypatch.setattr(flow_evaluation, "load_flow", lambda path: small_flow)
    run_paths = paths.FlowPaths("run", tmp_path)
    protocol = FlowEvaluationConfig(count=2, seeds=(4,), neighbours=1)
    rows = flow_evaluation.score_clips(small_flow, protocol, tracks, tracks, 4)
    recorded = {
        "protocol": flow_evaluation.describe_protocol(protocol, tracks, "test"),
        "scores": {"generated": flow_evaluation.summarise([rows["generated"]])},
        "first_seed": rows["generated"],
    }
    files.save_json(run_paths.metrics, recorded)
    found = list(flow_evaluation.remeasure(run_paths))
    assert [name for name, *_ in found] == [f"generated {metric}" for metric in CLIP_METRICS]
    assert all(measured == pytest.approx(recorded, rel=1e-6) for _, recorded, measured, _ in found)


def test_every_seed_compares_with_another_half_of_the_tracks(small_flow, tracks, monkeypatch):
    torch.manual_seed(3)
    network = classifier.StemClassifier(StemClassifierConfig(width=2)).eval()
    monkeypatch.setattr(classifier, "load_classifier", lambda: network)
    seen = []
    whole = flow_evaluation.all_excerpts
    monkeypatch.setattr(flow_evaluation, "all_excerpts", lambda part: seen.append(set(part.names)) or whole(part))
    protocol = FlowEvaluationConfig(count=2, neighbours=1)
    for seed in (0, 1):
        flow_evaluation.score_clips(small_flow, protocol, tracks, tracks, seed)
    (others, _, first), (_, _, second) = seen[:3], seen[3:]
    assert len(first) == len(others) == 2 and not first & others
    assert first != second
