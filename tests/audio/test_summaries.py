"""Medians, bootstrap intervals and the BD-rate, against closed forms."""

import math

import numpy as np
import pytest

from src.audio import summaries

RATE, SDR = "rate_kbit_s", "sdr_global_db"


def test_rows_are_summarised_by_medians_and_counts_by_sums():
    rows = [
        {"sdr_museval_db": value, "windows": 3, "windows_skipped": 1, "rate_kbit_s": value} for value in (1.0, 2.0, 9.0)
    ]
    rows[1]["sdr_museval_db"] = math.nan
    summary = summaries.summarise(rows)
    assert summary["sdr_museval_db"] == 5.0
    assert (summary["tracks"], summary["windows"], summary["windows_skipped"]) == (3, 9, 3)
    assert summary["rate_kbit_s"] == 2.0 and summary["rate_mean_kbit_s"] == 4.0
    assert summary["per_track"]["sdr_museval_db"] == [1.0, None, 9.0]  # None: NaN is not JSON
    assert summary["per_track"].keys() == summary["interval"].keys() == {"sdr_museval_db", "rate_kbit_s"}
    assert summaries.summarise([{"sdr_museval_db": math.nan}])["sdr_museval_db"] is None
    assert summaries.keep_per_track(summary, ("rate_kbit_s", "mse"))["per_track"] == {"rate_kbit_s": [1.0, 2.0, 9.0]}


def test_the_interval_of_a_median_is_that_of_the_order_statistics():
    # Of n = 99 distinct values, the 40th and the 60th enclose the median with a probability of 95 %
    # (binomial distribution with n = 99 and p = 1/2).
    low, high = summaries.median_interval([float(value) for value in range(1, 100)])
    assert low == pytest.approx(40, abs=1.5) and high == pytest.approx(60, abs=1.5)
    assert summaries.median_interval([3.0] * 20) == [3.0, 3.0]
    assert summaries.median_interval([3.0, math.nan]) is None


def curve(rates: np.ndarray, ratios: np.ndarray) -> list[dict]:
    """Points of one track's curve."""
    return [{"per_track": {RATE: [rate], SDR: [ratio]}} for rate, ratio in zip(rates, ratios, strict=True)]


def test_the_bd_rate_of_a_curve_that_needs_a_fifth_less_everywhere():
    ratios = np.linspace(9.0, 24.0, 6)
    rates = 2 ** (ratios / 6)
    found = summaries.bd_rate(curve(0.8 * rates, ratios), curve(rates, ratios))
    assert found["median"] == pytest.approx(-20, abs=1e-3)
    assert (found["tracks"], found["left_out"]) == (1, 0)


def test_a_track_without_a_common_range_is_left_out_of_the_bd_rate():
    ratios = np.linspace(9.0, 24.0, 6)
    found = summaries.bd_rate(curve(ratios, ratios), curve(ratios, ratios - 9.5))
    assert (found["tracks"], found["left_out"], found["median"], found["interval"]) == (0, 1, None, None)
