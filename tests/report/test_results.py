"""RESULTS.md is what the committed JSON says, and the tables say it right."""

import json
import re

import pytest
from PIL import Image

from src import paths
from src.config import STEMS, AudioConfig, ImageConfig, from_json
from src.errors import CheckpointError
from src.files import load_json
from src.metric_tables import CLIP_METRICS, SDR
from src.report import audio, flow, image, results, summary, tables


def test_the_pages_are_what_the_metrics_say():
    pages = results.render()
    assert [paths.relative(page) for page in pages] == [
        "RESULTS.md", "image_checkpoints/README.md", "final_audio_model/README.md"
    ]  # fmt: skip
    for page, text in pages.items():
        assert page.read_text(encoding="utf-8") == text


def test_published_numbers_were_measured_on_the_whole_data_set():
    metrics = load_json(paths.IMAGE.metrics)
    assert metrics["protocol"]["data"] == metrics["training"]["data"] == "MNIST"
    assert metrics["protocol"]["count"] == 10_000
    assert len(metrics["protocol"]["seeds"]) == 8
    assert metrics["training"]["epochs"] == ImageConfig().epochs
    assert [row["epoch"] for row in metrics["checkpoints"]] == [
        *range(5, ImageConfig().epochs, 5),
        ImageConfig().epochs,
    ]


def test_published_audio_numbers_were_measured_on_the_whole_data_set():
    metrics = load_json(paths.AUDIO.metrics)
    assert metrics["protocol"]["data"] == metrics["training"]["data"] == "MUSDB18-7s"
    assert metrics["protocol"]["tracks"] == 50
    assert (
        metrics["training"]["epochs"] == metrics["checkpoints"][-1]["epoch"] == metrics["training"]["config"]["epochs"]
    )
    described = load_json(paths.AUDIO.weights.with_suffix(".json"))
    assert described["epoch"] == audio.best_epoch(metrics)
    assert from_json(AudioConfig, described["config"]) == from_json(AudioConfig, metrics["training"]["config"])
    for stem in STEMS:
        assert metrics["protocol"]["operating_sdr_db"][stem] == metrics["final"][stem]["target_sdr_db"]


def test_equal_machines_share_a_letter():
    machines = {"image_machine": "one CPU", "flow_machine": "a GPU", "audio_machine": "one CPU"}
    assert results.letter_machines(machines) == {
        "image_machine": "A", "flow_machine": "B", "audio_machine": "A", "machines": "- A: one CPU\n- B: a GPU"
    }  # fmt: skip


def test_the_second_training_of_the_flow_has_the_settings_of_the_first():
    first, second = load_json(paths.FLOW.metrics), load_json(paths.FLOW_AGAIN)
    assert second["training"]["config"] == first["training"]["config"]
    for key in ("data", "split", "tracks", "count", "seconds", "seeds"):
        assert second["protocol"][key] == first["protocol"][key]
    assert "| recall | 0.50 ± 0.25 | 1.00 ± 0.00 |" in flow.twice_table(
        *({"scores": {"generated": dict.fromkeys(CLIP_METRICS, pair)}} for pair in ([0.5, 0.25], [1.0, 0.0]))
    )


def test_intervals_and_bd_rates_are_shown_beside_medians():
    row = {"sdr_museval_db": 18.0, "interval": {"sdr_museval_db": [17.5, 18.375]}}
    assert audio.interval(SDR, row) == "17.5 to 18.4"
    assert audio.interval(SDR, {"interval": {"sdr_museval_db": None}}) == "undefined"
    row = {"median": -12.34, "interval": [-14.0, -10.0], "tracks": 49, "left_out": 1}
    rows = {stem: row for stem in STEMS}
    text = audio.bd_rate_table({"bd_rate": rows})
    assert "| 95 % interval | -14.0 to -10.0 |" in text and "| tracks left out | 1 |" in text


def test_a_claim_stands_beside_the_lowest_and_the_highest_stem():
    final = {stem: {"sdr_museval_db": 18.0 + number, "snr_db": 20.0, "mse": 0.001} for number, stem in enumerate(STEMS)}
    claims = {"claimed": {"sdr_db": 18.2, "snr_db": 21.5, "mse": 0.0042}, "in_its_saved_files": {"sdr_db": -0.001}}
    curve = [{"snr_db": value, "rate_kbit_s": value / 2} for value in (10.0, 30.0)]
    text = audio.claims_table({"final": final, "curve": {stem: curve for stem in STEMS}}, claims)
    assert "| SDR (BSS Eval v4), dB | 18.2 | -0.001 | 18.0 | 21.0 |" in text
    assert "| SNR, dB | 21.5 | - | 20.0 | 20.0 |" in text
    assert "| MSE, 10⁻⁶ | 4200 | - | 1000 | 1000 |" in text
    assert "| rate at an SNR of 21.5 dB, kbit/s | - | - | 10.8 | 10.8 |" in text
    short = audio.claims_table({"final": final, "curve": {stem: curve[:1] for stem in STEMS}}, claims)
    assert "rate at an SNR" not in short


def test_what_was_not_measured_is_said_so():
    assert audio.opinion({}) == "not measured"
    assert audio.opinion({"zimtohrli_mos": 3.456}) == "3.46"


def test_published_generator_is_the_best_checkpoint():
    metrics = load_json(paths.IMAGE.metrics)
    described = load_json(paths.IMAGE.weights.with_suffix(".json"))
    assert described["epoch"] == image.best_epoch(metrics)
    assert from_json(ImageConfig, described["config"]) == from_json(ImageConfig, metrics["training"]["config"])


def test_table_aligns_numbers_to_the_right():
    assert tables.table(["a", "b"], [["x", "1"]]) == "| a | b |\n| :-- | --: |\n| x | 1 |"


def test_long_words_of_wide_tables_may_break():
    page = "opinion\n\n| opinion, `opinion` | a/opinion | is | resampling |\n| opinion | a | b |"
    assert tables.break_words(page) == (
        "opinion\n\n| opin&shy;ion, `opinion` | a/opinion | is | re&shy;sam&shy;pling |\n| opinion | a | b |"
    )


def test_scores_show_mean_spread_and_real_digits():
    text = image.score_table({"final": {"fid_mnist": {"mean": 0.12345, "std": 0.001, "real": 0.1}}})
    assert "| FID (mnist) ↓ | 0.123 ± 0.001 | 0.100 |" in text
    assert "inception" not in text  # was not measured
    others = {
        "final": {"fid_mnist": {"mean": 0.1, "std": None, "real": 0.2}},
        "unconditional": {"fid_mnist": {"mean": 3, "std": 0.5}},
    }
    assert "| FID (mnist) ↓ | 0.100 | 0.200 |" in image.score_table(others)
    assert "| FID (mnist) | 3.000 ± 0.500 | 0.100 |" in image.unconditional_table(others)


SCORES = [
    {"seconds": 120.0, "images_seen": 50_000, "fid_mnist": 4.0, "inception_score_mnist": 8.0},
    {"seconds": 150.0, "images_seen": 60_100, "fid_mnist": 3.0, "inception_score_mnist": 8.5},
    {"seconds": 240.0, "images_seen": 96_000, "fid_mnist": 2.0, "inception_score_mnist": 9.0},
]


def test_the_comparison_reads_equal_images_equal_time_and_time_to_a_score(monkeypatch):
    monkeypatch.setattr(image, "FID_REACHED", 2.0)
    slow = [{"seconds": 240.0, "images_seen": 10_000, "fid_mnist": 9.0, "inception_score_mnist": 1.0}]
    text = image.benchmark_text(
        {
            "protocol": {"minutes": 4, "images_scored": 10_000},
            "training": [{"model": "fast", "scores": SCORES}, {"model": "slow", "scores": slow}],
        }
    )
    assert "| fast | 400 | 3.00 | 2.00 |" in text
    assert "| slow | 42 | - | 9.00 |" in text
    assert "Minutes to an FID of 2: fast at most 4.0; slow not reached." in text


def test_the_ablation_shows_mean_and_deviation_over_seeds():
    better = [{**row, "fid_mnist": row["fid_mnist"] - 1} for row in SCORES]
    runs = [{"scores": SCORES, "fid_mnist_no_average": 5.0}, {"scores": better, "fid_mnist_no_average": 6.0}]
    seen = {"default": [64_000, 96_000], "unconditional": [320_000, None]}
    rows = [{"variant": "default", "runs": runs}]
    protocol = {"images": 320_000, "default": {"epochs": 50}}
    text = image.ablation_text({"protocol": protocol, "rows": rows, "images_to_fid_1": seen})
    assert "It saw 320,000 training images, repeats counted (the published training: 2,500,000)" in text
    assert "| default | 1.50 ± 0.71 | 5.50 ± 0.71 |" in text
    assert "with labels 64,000 / 96,000; without, in longer trainings, 320,000 / not reached." in text


def test_references_stand_against_both_sets():
    references = {
        "random_training": {"test": [0.1], "validation": [0.2]},
        "validation": {"test": [0.3]},
        "generated": {"test": [0.3, 0.5], "validation": [0.4, 0.6, 0.5]},
    }
    text = image.reference_table({"fid_references": references})
    assert "| random training digits | 0.100 | 0.200 |" in text
    assert "| validation digits | 0.300 | - |" in text
    assert "| generated digits, as frequent as in training | 0.400 ± 0.141 | 0.500 ± 0.100 |" in text


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"image_metrics\.json does not exist"):
        results.write(paths.ImagePaths("trial", tmp_path), page=tmp_path / "RESULTS.md")
    assert not (tmp_path / "RESULTS.md").exists()


def test_committed_json_names_no_path_of_a_machine():
    for path in (
        *paths.IMAGE.metrics_folder.glob("*.json*"),
        *paths.IMAGE.checkpoints.glob("*.json"),
        *paths.AUDIO.results.glob("*.json*"),
        *paths.AUDIO.checkpoints.glob("*.json"),
        *paths.AUDIO.weights.parent.glob("*.json"),
    ):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not re.search(r'"(/|[A-Z]:\\)', line), (path.name, line[:200])
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))


def test_figures_are_written_from_the_committed_files(tmp_path):
    for folder in ("metrics", "generated_images", "image_checkpoints", "audio_results", "audio_checkpoints"):
        (tmp_path / folder).mkdir()
        for path in (paths.ROOT / folder).glob("*"):
            if path.suffix in (".json", ".jsonl", ".png"):
                (tmp_path / folder / path.name).write_bytes(path.read_bytes())
    written = results.write(
        paths.ImagePaths("full", tmp_path), paths.AudioPaths("full", tmp_path), tmp_path / "RESULTS.md"
    )
    assert len(written) == 17 and all(path.is_file() for path in written)
    for path in written:
        committed = paths.ROOT / path.relative_to(tmp_path)
        if path.suffix == ".png":
            assert Image.open(path).size == Image.open(committed).size
        else:
            assert path.read_bytes() == committed.read_bytes()


def test_the_summary_has_a_row_for_each_question_with_its_yardstick():
    scores = {
        name: {metric: [value, 0.25] for metric in ("frechet_distance", "recognised", "recall")}
        for name, value in (("generated", 2.0), ("training", 0.5), ("real", 0.25))
    }
    nearest = {
        name: {"features": {"median": 9.0, "percentile_1": value}}
        for name, value in (("generated", 5.0), ("real", 6.0), ("copies", 2.0))
    }
    rows = summary.clip_rows({"scores": scores, "protocol": {"seeds": [0, 1]}, "nearest": nearest})
    assert [row[1:] for row in rows] == [
        ["2.00", "test excerpts: 0.25", "± 0.25 over 2 seeds"],
        ["2.000", "test excerpts: 0.250", "± 0.250 over 2 seeds"],
        ["2.00", "test excerpts: 0.25", "± 0.25 over 2 seeds"],
        ["5.00", "test excerpts: 6.00", "first seed"],
    ]
    assert "decoded copies: 2.00" in rows[-1][0]
    assert all(len(row) == len(summary.HEADER) for row in rows)


def test_the_summary_answers_for_the_stem_that_does_worst():
    def scores(rate: float, opinion: float) -> dict:
        return {
            "sdr_museval_db": 18.5,
            "rate_kbit_s": rate,
            "zimtohrli_mos": opinion,
            "interval": {"rate_kbit_s": [rate - 1, rate + 2], "zimtohrli_mos": [opinion - 0.5, opinion + 0.25]},
        }

    final = {stem: scores(rate, 2.5) for stem, rate in zip(STEMS, (4.0, 2.0, 8.0, 6.0), strict=True)}
    baselines = {
        stem: {
            "model": scores(2.0, opinion),
            "model_filled": scores(2.0, 5 - opinion),
            "griffin_lim_decoded_mel": {"zimtohrli_mos": opinion + 1},
        }
        for stem, opinion in zip(STEMS, (3.0, 1.5, 3.5, 3.25), strict=True)
    }
    medians = zip(STEMS, (-8.0, None, -20.0, -12.0), strict=True)
    saved = {stem: {"median": median, "interval": [-9.0, -7.0]} for stem, median in medians}
    rows = summary.stem_rows({"final": final, "baselines": baselines, "bd_rate": saved})
    assert [row[1:] for row in rows] == [
        ["8.0", "uncompressed, 16 bit: 352.8", "95 %: 7.0 to 10.0"],
        ["8.0", "the formula alone: 0", "95 %: 7.0 to 9.0"],
        ["1.50", "`z_mel` alone, estimated phase: 2.50", "95 %: 1.00 to 1.75"],
        ["1.50", "`z_mel` alone, estimated phase: 4.50", "95 %: 1.00 to 1.75"],
    ]
    assert ["*other*" in rows[0][0], "*drums*" in rows[1][0], "*bass*" in rows[2][0], "*other*" in rows[3][0]] == [
        True
    ] * 4

    # Without an opinion score or a curve in common, their rows are left out.
    saved = {stem: {"median": None, "interval": None} for stem in STEMS}
    for row in baselines.values():
        del row["model"]["zimtohrli_mos"]
    assert len(summary.stem_rows({"final": final, "baselines": baselines, "bd_rate": saved})) == 1
