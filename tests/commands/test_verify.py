"""`verify`: agreement within each metric's tolerance, and one line with what differs."""

import pytest

from src import cli
from src.audio import evaluation as audio_evaluation
from src.image import evaluation as image_evaluation
from src.metric_tables import INCEPTION_SCORE, RATE


@pytest.mark.parametrize(
    ("score", "rate", "status"),
    [(9.391, 10.0, 0), (9.391 + INCEPTION_SCORE.tolerance * 1.1, 10.0, 1), (9.391, 10.0 - RATE.tolerance * 1.1, 1)],
)
def test_a_difference_beyond_the_tolerance_fails(capsys, monkeypatch, score, rate, status):
    monkeypatch.setattr(
        image_evaluation, "remeasure", lambda: iter([(str(INCEPTION_SCORE), INCEPTION_SCORE, 9.391, score)])
    )
    monkeypatch.setattr(audio_evaluation, "remeasure", lambda: iter([("bass rate_kbit_s", RATE, 10.0, rate)]))
    assert cli.main(["verify"]) == status
    captured = capsys.readouterr()
    assert captured.out.count("agrees") == 2 - status and captured.out.count("DIFFERS") == status
    assert captured.err.startswith("error: not as recorded: ") == bool(status)
