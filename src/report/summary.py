"""The first table of RESULTS.md: questions of both halves, each with its answer, a yardstick, and its spread."""

from collections.abc import Iterable

from src import paths
from src.config import STEMS
from src.files import load_json
from src.metric_tables import (
    DIGIT_ACCURACY,
    FID,
    FRECHET,
    OPINION,
    RATE,
    RECALL,
    RECALL_OF_CLIPS,
    RECOGNISED,
    SDR,
    Metric,
)
from src.report.tables import table

HEADER = ["question", "answer", "yardstick", "how sure"]


def template_values(
    image_paths: paths.ImagePaths, audio_paths: paths.AudioPaths, flow_paths: paths.FlowPaths
) -> dict[str, str]:
    """The templates' tables of answers. Raises CheckpointError if a JSON file is missing or damaged."""
    digits = digit_rows(load_json(image_paths.metrics))
    stems = stem_rows(load_json(audio_paths.metrics)) + clip_rows(load_json(flow_paths.metrics))
    return {
        "answers": table(HEADER, digits + stems),
        "digit_answers": table(HEADER, digits),
        "stem_answers": table(HEADER, stems),
    }


def digit_rows(metrics: dict) -> list[list[str]]:
    """The questions about generated digits."""
    final, references = metrics["final"], metrics["fid_references"]
    random_training, generated = references["random_training"], references["generated"]
    seeds = len(metrics["protocol"]["seeds"])

    def sure(metric: Metric) -> str:
        return f"± {metric.format(final[metric]['std'])} over {seeds} sampling seeds"

    near = metrics["neighbours"]
    return [
        [
            "Are the digits, as a set, like MNIST? (FID against the test digits)",
            FID.format(final[FID]["mean"]),
            f"random training digits {FID.format(random_training['test'])}; against the validation digits "
            f"{FID.format(random_training['validation'])}, generated digits {FID.format(generated['validation'])}",
            sure(FID),
        ],
        [
            "Is a digit the one that was asked for?",
            DIGIT_ACCURACY.format(final[DIGIT_ACCURACY]["mean"]),
            f"real digits read as labelled {DIGIT_ACCURACY.format(final[DIGIT_ACCURACY]['real'])}",
            sure(DIGIT_ACCURACY),
        ],
        [
            "Is all of MNIST's variety there? (recall)",
            RECALL.format(final[RECALL]["mean"]),
            f"real digits {RECALL.format(final[RECALL]['real'])}",
            sure(RECALL),
        ],
        [
            "Are the digits copies? (distance to the nearest training digit, root mean square of 255 grey levels)",
            f"{near['median_distance_generated']:.1f}",
            f"real test digits {near['median_distance_test']:.1f}",
            f"median of {near['count']:,}",
        ],
    ]


def stem_rows(metrics: dict) -> list[list[str]]:
    """The questions about regenerated stems."""
    final, baselines = metrics["final"], metrics["baselines"]
    tracks = f"{metrics['protocol']['tracks']} tracks"
    sdr_bounds = [bound for stem in STEMS for bound in final[stem]["interval"].get(SDR) or [final[stem][SDR]]]
    rows = [
        [
            "How close does a regenerated stem come? (SDR; chosen, and the rate is the result)",
            f"{_range(SDR, final.values())} dB",
            f"silence 0 dB; the latents carry {_range(RATE, final.values())} kbit/s",
            f"the four stems' medians over {tracks}; their 95 % intervals lie between "
            f"{SDR.format(min(sdr_bounds))} and {SDR.format(max(sdr_bounds))} dB",
        ]
    ]
    model, guessed = ([baselines[stem][key] for stem in STEMS] for key in ("model", "griffin_lim_decoded_mel"))
    if all(OPINION in row for row in (*model, *guessed)):
        lower = [stem for stem, row, other in zip(STEMS, model, guessed, strict=True) if row[OPINION] < other[OPINION]]
        rows.append(
            [
                "How does it sound? (opinion score from 1 to 5, predicted)",
                _range(OPINION, model),
                f"`z_mel` alone, with an estimated phase: {_range(OPINION, guessed)}",
                f"medians over {tracks}; below the yardstick in {', '.join(lower) or 'no stem'}",
            ]
        )
    return rows


def _range(metric: Metric, rows: Iterable[dict]) -> str:
    """The least and the greatest value over the stems."""
    values = [row[metric] for row in rows]
    return f"{metric.format(min(values))} to {metric.format(max(values))}"


def clip_rows(metrics: dict) -> list[list[str]]:
    """The questions about generated stems."""
    scores = metrics["scores"]
    seeds = len(metrics["protocol"]["seeds"])

    def row(question: str, metric: Metric, yardstick: str, label: str) -> list[str]:
        mean, deviation = scores["generated"][metric]
        of_yardstick = metric.format(scores[yardstick][metric][0])
        return [
            question,
            metric.format(mean),
            f"{label} {of_yardstick}",
            f"± {metric.format(deviation)} over {seeds} seeds",
        ]

    return [
        row("Is generated sound like real stems? (Fréchet distance)", FRECHET, "training", "training excerpts"),
        row("Is it the stem that was asked for?", RECOGNISED, "training", "training excerpts"),
        row("Is the variety of real stems there? (recall)", RECALL_OF_CLIPS, "training", "training excerpts"),
    ]
