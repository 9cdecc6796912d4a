"""`verify`: agreement within the allowed difference, and one line with what differs."""

import pytest

from src import cli, files, paths
from src.audio import evaluation as audio_evaluation
from src.audio import flow_evaluation
from src.config import STEMS
from src.errors import DataError
from src.image import evaluation as image_evaluation
from src.metric_tables import AUDIO_METRICS, IMAGE_METRICS


def recorded_differences(worse: float) -> list[tuple[str, float, float, float]]:
    """The recorded scores, and the same moved by `worse` times two standard deviations, 0.2 dB or 2 %."""
    rows = []
    final = files.load_json(paths.IMAGE.metrics)["final"]
    for metric in IMAGE_METRICS:
        if metric in final:
            mean, std = final[metric]["mean"], final[metric]["std"]
            rows.append((metric, mean, mean + worse * 2 * std, std))
    final = files.load_json(paths.AUDIO.metrics)["final"]
    for stem in STEMS:
        for metric in AUDIO_METRICS:
            if metric.tolerance is not None:
                value = final[stem][metric]
                step = 0.02 * abs(value) if metric.relative else 0.2
                rows.append((f"{stem} {metric}", value, value - worse * step, metric.allowed_difference(value)))
    return rows


@pytest.mark.parametrize("worse", [0.0, 0.1, 1.0, -1.0])
def test_values_that_are_clearly_worse_differ_and_rounding_does_not(capsys, monkeypatch, worse):
    rows = recorded_differences(worse)
    monkeypatch.setattr(image_evaluation, "remeasure", lambda: iter(rows[:7]))
    monkeypatch.setattr(audio_evaluation, "remeasure", lambda: iter(rows[7:20]))
    monkeypatch.setattr(flow_evaluation, "remeasure", lambda: iter(rows[20:]))
    differs = abs(worse) == 1
    assert cli.main(["verify"]) == differs
    captured = capsys.readouterr()
    assert captured.out.count("DIFFERS") == (len(rows) if differs else 0)
    assert captured.out.count("agrees") == (0 if differs else len(rows))
    assert captured.err.startswith("error: not as recorded: ") == differs


def test_wrong_data_are_refused_before_anything_is_measured(capsys, monkeypatch):
    def refuse():
        raise DataError("data/MUSDB18 holds MUSDB18")

    monkeypatch.setattr(image_evaluation, "remeasure", lambda: iter([("fid", 1.0, 1.0, 0.1)]))
    monkeypatch.setattr(audio_evaluation, "remeasure", refuse)
    assert cli.main(["verify"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "error: data/MUSDB18 holds MUSDB18\n"


def test_every_recorded_score_is_compared():
    assert set(files.load_json(paths.IMAGE.metrics)["final"]) - {"digit_shares"} <= set(IMAGE_METRICS)
    compared = {str(metric) for metric in AUDIO_METRICS if metric.tolerance is not None}
    others = {"target_sdr_db", "fill", "tracks", "windows", "windows_skipped"}  # settings and counts
    others |= {"names", "interval", "per_track"}
    assert set(files.load_json(paths.AUDIO.metrics)["final"]["bass"]) - others == compared
