"""The protocol: what it compares, how it summarises, and that it holds on a small model."""

import json
import math
import warnings
from dataclasses import replace

import pytest
import torch

from src import files, paths
from src.audio import benchmark, classifier, evaluation, vae
from src.audio.data import Tracks
from src.config import STEMS, AudioConfig, AudioEvaluationConfig, StemClassifierConfig
from src.errors import DataError
from src.metric_tables import AUDIO_METRICS

RATE = 22050
SMALL = AudioConfig(mel_bands=40, latent_dim=4, mel_channels=4, mel_hidden=16, fine_channels=4)


@pytest.fixture(scope="module")
def model() -> vae.StemVAE:
    torch.manual_seed(1)
    model = vae.StemVAE(SMALL).eval()
    for parameter in model.fine.parameters():
        torch.nn.init.normal_(parameter, 0, 0.1)
    return model


@pytest.fixture(scope="module")
def tracks() -> Tracks:
    torch.manual_seed(2)
    loudness = torch.tensor([0.3, 0.1, 0.2, 0.05])[:, None]
    return Tracks(tuple(torch.randn(4, 3 * RATE + 500) * loudness for _ in range(3)), ("a", "b", "c"), RATE, "noise")


def test_a_curve_is_read_at_a_rate_where_it_has_scores():
    curve = [
        {"rate_kbit_s": 1.0, "sdr_global_db": 6.0, "zimtohrli_mos": 2.0},
        {"rate_kbit_s": 2.0, "sdr_global_db": 10.0},
        {"rate_kbit_s": 3.0, "sdr_global_db": 12.0, "zimtohrli_mos": 4.0},
    ]
    row = evaluation.at_rate(curve, 2.0)
    assert (row["sdr_global_db"], row["zimtohrli_mos"]) == (10.0, 3.0)


def test_scorer_scores_alike_every_time_and_shows_its_example(model, tracks, tmp_path):
    scorer = evaluation.Scorer(tracks)
    first = scorer.score_checkpoint(model)
    torch.manual_seed(77)
    assert scorer.score_checkpoint(model) == first
    assert set(first) == {"objective_kbit_s", *STEMS}
    run_paths = paths.AudioPaths("trial", tmp_path)
    scorer.save_examples(model, run_paths, 5)
    assert run_paths.spectrogram(5).is_file()
    assert all(run_paths.reconstruction(5, stem).is_file() for stem in STEMS)


def test_silent_stems_are_left_out(tracks):
    quiet = replace(tracks, waveforms=(*tracks.waveforms[:2], torch.zeros(4, 9000)))
    assert len(evaluation.non_silent(quiet, 0)) == 2


def test_baselines_are_what_their_names_say(model, tracks):
    waveforms = evaluation.non_silent(tracks, 1)
    rows = evaluation.measure_baselines(model, waveforms, "bass")
    assert rows["silence"]["sdr_global_db"] == 0 and rows["silence"]["sdr_museval_db"] is None
    # A quarter of white noise's spectrum holds a quarter of its power.
    assert rows["low_pass"]["sdr_global_db"] == pytest.approx(-10 * math.log10(0.75), abs=0.1)
    # Right magnitudes and a phase of its own: the expected SNR is -3 dB.
    assert rows["griffin_lim_true_mel"]["sdr_global_db"] == pytest.approx(-3, abs=1)
    assert rows["oracle_phase"]["sdr_global_db"] > rows["griffin_lim_decoded_mel"]["sdr_global_db"]


def test_scores_of_one_waveform_do_not_depend_on_the_threads(model, tracks):
    waveforms = evaluation.non_silent(tracks, 2)
    before = torch.get_num_threads()
    first, again = (evaluation.measure(model, waveforms, "other", 15.0) for _ in range(2))
    assert first == again
    assert torch.get_num_threads() == before


@pytest.fixture
def small_world(tracks, monkeypatch) -> None:
    """The tracks of noise as every split, and an untrained classifier."""
    monkeypatch.setattr(evaluation, "load_musdb18", lambda split, rate: replace(tracks, sample_rate=rate))
    untrained = classifier.StemClassifier(StemClassifierConfig(width=2)).eval()
    monkeypatch.setattr(classifier, "load_classifier", lambda: untrained)


@pytest.mark.slow
def test_the_whole_protocol_on_a_small_model(model, small_world):
    config = AudioEvaluationConfig(curve_sdr_db=(8.0, 14.0), perceptual_sdr_db=(8.0,), tracks=2)
    measured = evaluation.evaluate(model, config)
    parts = {"final", "curve", "closed_form", "bd_rate", "perceptual", "baselines"}
    assert set(measured) == parts | {"protocol", "calibration", "resampled"}
    assert measured["protocol"]["tracks"] == 2
    for stem in STEMS:
        final = measured["final"][stem]
        assert final["names"] == ["a", "b"] and len(final["per_track"]["sdr_museval_db"]) == 2
        assert final["interval"]["snr_db"][0] <= final["snr_db"] <= final["interval"]["snr_db"][1]
        assert set(measured["closed_form"][stem][0]["per_track"]) == {"rate_kbit_s", "sdr_global_db"}
        assert measured["baselines"][stem]["model"]["rate_kbit_s"] == final["rate_kbit_s"]
        assert [row["fill"] for row in measured["perceptual"][stem]] == [0.0, config.fill]
        curve = measured["curve"][stem]
        assert curve[0]["rate_kbit_s"] < curve[1]["rate_kbit_s"]


@pytest.mark.slow
def test_an_interrupted_measurement_goes_on_and_ends_in_the_same_scores(model, small_world, tmp_path):
    config = AudioEvaluationConfig(
        curve_sdr_db=(8.0, 14.0), perceptual_sdr_db=(8.0,), calibration_sdr_db=(8.0,), calibration_fills=(0.5,),
        tracks=1,
    )  # fmt: skip
    whole = json.dumps(evaluation.evaluate(model, config))
    computed = []

    class Stop(Exception):
        pass

    class Interrupted(files.PartialResults):
        def __call__(self, name, function, *arguments):
            def counted(*arguments):
                if len(computed) == stop_after:
                    raise Stop
                computed.append(name)
                return function(*arguments)

            return super().__call__(name, counted, *arguments)

    for stop_after in (3, 9, 20, 37, 39):  # of 40 parts: in the calibration, a stem, resampling, before the last
        with pytest.raises(Stop):
            evaluation.evaluate(model, config, keep=Interrupted(tmp_path / "partial.json", {"weights": "a"}))
        assert len(computed) == stop_after
    stop_after = None
    again = evaluation.evaluate(model, config, keep=Interrupted(tmp_path / "partial.json", {"weights": "a"}))
    assert json.dumps(again) == whole
    assert len(computed) == len(set(computed)) == 40


@pytest.mark.parametrize("scored", [True, False])
def test_remeasuring_yields_recorded_beside_measured_values(model, tracks, monkeypatch, tmp_path, scored):
    monkeypatch.setattr(evaluation.metrics, "zimtohrli_mos", lambda *_: 3.0)
    monkeypatch.setattr(evaluation, "load_musdb18", lambda split, rate: tracks)
    monkeypatch.setattr(evaluation.vae, "load_model", lambda path: model)
    run_paths = paths.AudioPaths("trial", tmp_path)
    final = {
        stem: evaluation.measure(
            model, evaluation.non_silent(tracks, index), stem, evaluation.OPERATING_SDR_DB[index], perceptual=True
        )
        for index, stem in enumerate(STEMS)
    }
    evaluation.files.save_json(run_paths.metrics, {"final": final, "protocol": {"data": tracks.source}})
    if not scored:
        monkeypatch.setattr(evaluation.metrics, "zimtohrli_mos", lambda *_: None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = list(evaluation.remeasure(run_paths))
    missing = [str(warning.message) for warning in caught if "zimtohrli" in str(warning.message)]
    assert missing == ([] if scored else [f"{stem}: the opinion score is not measured, zimtohrli is not installed"
                                          for stem in STEMS])  # fmt: skip
    compared = sum(metric.tolerance is not None for metric in AUDIO_METRICS) - (not scored)
    assert len(rows) == len(STEMS) * compared
    assert all(recorded == pytest.approx(measured) and allowed > 0 for _, recorded, measured, allowed in rows)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "MUSDB18",
            "measured on MUSDB18-7s, and data/MUSDB18 holds MUSDB18: move it elsewhere and run python -m src data",
        ),
        ("MUSDB18-HQ", "data/MUSDB18 holds MUSDB18-HQ: move it elsewhere"),
        ("stempeg sample", "measured on MUSDB18-7s, which is not here: run python -m src data"),
    ],
)
def test_other_data_than_the_recorded_are_refused_at_once(model, tracks, monkeypatch, source, message):
    monkeypatch.setattr(evaluation, "load_musdb18", lambda split, rate: replace(tracks, source=source))
    monkeypatch.setattr(evaluation.vae, "load_model", lambda path: model)
    with pytest.raises(DataError, match=message):
        evaluation.remeasure()


def test_speeds_are_positive(model, tracks):
    assert all(speed > 0 for speed in benchmark.measure_speed(model, tracks, seconds=0.2).values())


def test_a_stem_that_is_silent_in_all_validation_tracks_is_named(tracks):
    silent = replace(tracks, waveforms=tuple(stems * torch.tensor([1, 0, 1, 1])[:, None] for stems in tracks.waveforms))
    with pytest.raises(DataError, match="the bass of all validation tracks are silent"):
        evaluation.Scorer(silent)


def test_a_very_short_track_does_not_cut_the_others(tracks):
    short = replace(tracks, waveforms=(*tracks.waveforms, torch.ones(4, 100)), names=(*tracks.names, "d"))
    for own, of_all in zip(evaluation.Scorer(short).stems, evaluation.Scorer(tracks).stems, strict=True):
        assert torch.equal(own, of_all)
