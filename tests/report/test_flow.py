"""The tables of generated stems say what their JSON says."""

from src import paths
from src.config import STEMS, FlowConfig, FlowEvaluationConfig, from_json
from src.files import load_json
from src.metric_tables import CLIP_METRICS, FLOW_LOSS
from src.report import flow


def test_scores_are_shown_with_their_spread():
    row = {metric: [0.5, 0.125] for metric in CLIP_METRICS} | {f"recognised_{stem}": [0.9, 0.1] for stem in STEMS}
    metrics = {"scores": dict.fromkeys(("generated", "training", "real", "real_through_griffin_lim"), row)}
    text = flow.score_table(metrics)
    assert "|  | generated | training | real |" in text
    assert "| Fréchet distance | 0.50 ± 0.12 | 0.50 ± 0.12 |" in text
    assert "| generated | 0.90 | 0.90 | 0.90 | 0.90 |" in flow.stem_table(metrics)


def test_the_character_of_generated_clips_stands_above_that_of_real_ones():
    kinds = {"generated": dict.fromkeys(flow.CHARACTER_LABELS, 1.0), "real": dict.fromkeys(flow.CHARACTER_LABELS, 2.0)}
    lines = flow.character_table({"character": dict.fromkeys(STEMS, kinds)}).splitlines()
    assert lines[2].startswith("| level, dB re full scale: generated | 1.0 |")
    assert lines[3].startswith("| level, dB re full scale: real | 2.0 |")


def test_distances_stand_beside_those_of_real_excerpts():
    generated = {space: {"median": 3.0, "percentile_1": 1.0} for space in flow.SPACE_LABELS}
    real = {space: {"median": 4.0, "percentile_1": 2.0} for space in flow.SPACE_LABELS}
    copies = {space: {"median": 0.5, "percentile_1": 0.25} for space in flow.SPACE_LABELS}
    text = flow.nearest_table({"nearest": {"generated": generated, "real": real, "copies": copies}})
    assert "in the log-mel spectrogram, dB, median | 3.00 | 4.00 | 0.50 | 0.75 |" in text
    assert "in the classifier's features, 1st percentile | 1.00 | 2.00 | 0.25 | 0.50 |" in text


def test_published_flow_was_measured_on_the_whole_data_set():
    metrics = load_json(paths.FLOW.metrics)
    assert metrics["protocol"]["data"] == metrics["training"]["data"] == "MUSDB18-7s"
    assert metrics["protocol"]["tracks"] == 50
    assert metrics["protocol"]["minutes"] == FlowEvaluationConfig().minutes
    assert len(metrics["protocol"]["seeds"]) == 5
    for quantile in ("median", "percentile_1"):  # as RESULTS.md and notebook 02 say
        generated, copies = (metrics["nearest"][kind]["log_mel_db"][quantile] for kind in ("generated", "copies"))
        assert generated > 2 * copies
    described = load_json(paths.FLOW.weights.with_suffix(".json"))
    assert described["epoch"] == FLOW_LOSS.best(metrics["checkpoints"])["epoch"]
    assert from_json(FlowConfig, described["config"]) == from_json(FlowConfig, metrics["training"]["config"])
    assert [row["epoch"] for row in metrics["checkpoints"]] == list(range(5, 51, 5))
