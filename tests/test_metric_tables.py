"""The metric tables: keys as keys, formats, the best row."""

import json

from src.metric_tables import AUDIO_METRICS, FID, IMAGE_METRICS, INCEPTION_SCORE, MSE, SDR


def test_a_metric_is_its_key():
    assert json.loads(json.dumps({FID: 1.0})) == {"fid_mnist": 1.0}
    assert {"sdr_museval_db": 2}[SDR] == 2
    assert f"{SDR}" == "sdr_museval_db"


def test_keys_are_unique_and_every_direction_is_known():
    metrics = (*IMAGE_METRICS, *AUDIO_METRICS)
    assert len(set(metrics)) == len(metrics)
    assert {metric.better for metric in metrics} == {"lower", "higher", "as real"}


def test_values_are_shown_with_their_decimals_and_unit():
    assert SDR.format(18.256) == "18.3" and MSE.format(1.25e-4) == "125"
    assert SDR.format(None) == "undefined"
    assert SDR.heading == "SDR (BSS Eval v4), dB" and FID.heading == "FID (mnist)"


def test_the_best_row_is_the_lowest_or_the_highest():
    rows = [{FID: 2.0, INCEPTION_SCORE: 9.0}, {FID: 1.0, INCEPTION_SCORE: 8.0}, {FID: 1.0, INCEPTION_SCORE: 7.0}]
    assert FID.best(rows) is rows[1]
    assert INCEPTION_SCORE.best(rows) is rows[0]


def test_a_value_that_is_not_a_number_is_never_the_best():
    for metric in (FID, INCEPTION_SCORE):
        assert metric.best([{metric: float("nan")}, {metric: 3.0}, {metric: float("nan")}]) == {metric: 3.0}
