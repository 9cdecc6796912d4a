"""Scores of many tracks: medians with bootstrap intervals, and the BD-rate between two rate-distortion curves."""

from collections.abc import Iterable

import bjontegaard
import numpy as np
from scipy.stats import bootstrap

from src.config import BD_RATE_MIN_COMMON_DB, BOOTSTRAP_RESAMPLES
from src.metric_tables import RATE, RATE_MEAN, SDR_GLOBAL

COUNTS = ("windows", "windows_skipped")  # summed over tracks
PER_TRACK, INTERVAL = "per_track", "interval"  # keys of a summary

Row = dict[str, float]  # scores of one track
Summary = dict[str, float | int | dict | None]  # scores of all tracks


def summarise(rows: list[Row]) -> Summary:
    """The scores of several tracks as one row.

    Each metric has its median over tracks, None where no track has a value; the rate also its mean, and counts their
    sum. `interval` holds the 95 % interval [low, high] of each median, `per_track` the values of the tracks.
    """
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    summary: Summary = {"tracks": len(rows)}
    summary |= {key: sum(values) if key in COUNTS else _median(values) for key, values in columns.items()}
    if RATE in columns:
        summary[RATE_MEAN] = _round(np.mean(columns[RATE]))
    metrics = {key: values for key, values in columns.items() if key not in COUNTS}
    summary[INTERVAL] = {key: median_interval(values) for key, values in metrics.items()}
    summary[PER_TRACK] = {key: [_round(value) for value in values] for key, values in metrics.items()}
    return summary


def keep_per_track(summary: Summary, metrics: Iterable[str]) -> Summary:
    """The summary with only these metrics of each track."""
    return summary | {PER_TRACK: {key: summary[PER_TRACK][key] for key in metrics if key in summary[PER_TRACK]}}


def median_interval(values: list[float]) -> list[float] | None:
    """95 % interval [low, high] of the median of independent tracks, by the percentile bootstrap (Efron 1979); None for
    fewer than two values that are not NaN."""
    known = np.array(values, dtype=float)
    known = known[~np.isnan(known)]
    if len(known) < 2:
        return None
    found = bootstrap((known,), np.median, n_resamples=BOOTSTRAP_RESAMPLES, method="percentile", rng=0)
    return [_round(found.confidence_interval.low), _round(found.confidence_interval.high)]


def bd_rate(curve: list[Summary], anchor: list[Summary]) -> Summary:
    """BD-rate in percent of a curve against an anchor: the mean difference of the logarithms of their rates at equal
    global SDR, over the SDRs that both reach (Bjontegaard 2001, VCEG-M33). Negative: the curve needs less.

    It is computed for each track, then summarised. Tracks whose curves have less than `BD_RATE_MIN_COMMON_DB` in common
    are left out and counted.
    """
    pairs = [zip(*(_points(row) for row in rows), strict=True) for rows in (curve, anchor)]
    differences = []
    for own, others in zip(*pairs, strict=True):
        (rates, ratios), (anchor_rates, anchor_ratios) = (np.transpose(points) for points in (own, others))
        common = min(ratios.max(), anchor_ratios.max()) - max(ratios.min(), anchor_ratios.min())
        if common >= BD_RATE_MIN_COMMON_DB:
            found = bjontegaard.bd_rate(anchor_rates, anchor_ratios, rates, ratios, method="akima", min_overlap=0)
            differences.append(float(found))
    return {
        "tracks": len(differences),
        "left_out": len(curve[0][PER_TRACK][RATE]) - len(differences),
        "median": _median(differences),
        INTERVAL: median_interval(differences),
        PER_TRACK: [_round(value) for value in differences],
    }


def _points(row: Summary) -> list[tuple[float, float]]:
    """(rate, global SDR) of each track at one point of a curve."""
    return list(zip(row[PER_TRACK][RATE], row[PER_TRACK][SDR_GLOBAL], strict=True))


def _median(values: list[float]) -> float | None:
    return _round(np.nanmedian(values)) if values and not np.isnan(values).all() else None


def _round(value: float) -> float | None:
    return None if np.isnan(value) else float(f"{float(value):.5g}")
