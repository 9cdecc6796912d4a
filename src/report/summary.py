"""The first table of RESULTS.md: questions of both halves, each with its answer, a yardstick, and its spread."""

from collections.abc import Iterable
from statistics import mean, stdev

from src import paths
from src.config import STEMS
from src.files import load_json
from src.metric_tables import (
    BD_RATE,
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
    random_training = references["random_training"]
    seeds = len(metrics["protocol"]["seeds"])

    def sure(metric: Metric) -> str:
        return f"± {metric.format(final[metric]['std'])} over {seeds} seeds"

    near, fids = metrics["neighbours"], metrics["fid_spread"]["generated"]
    return [
        [
            "Are the digits, as a set, like MNIST's test digits? (FID)",
            FID.format(final[FID]["mean"]),
            f"random training digits {FID.format(random_training['test'])}; validation digits "
            f"{FID.format(references['validation']['test'])}",
            f"± {FID.format(stdev(fids))} over {len(fids)} seeds around {FID.format(mean(fids))}, against the "
            f"validation digits; {sure(FID)}, against the test digits",
        ],
        [
            "Is a digit the one that was asked for?",
            DIGIT_ACCURACY.format(final[DIGIT_ACCURACY]["mean"]),
            f"test digits read as labelled {DIGIT_ACCURACY.format(final[DIGIT_ACCURACY]['real'])}",
            sure(DIGIT_ACCURACY),
        ],
        [
            "Is all of MNIST's variety there? (recall)",
            RECALL.format(final[RECALL]["mean"]),
            f"validation digits {RECALL.format(final[RECALL]['real'])}",
            sure(RECALL),
        ],
        [
            "Are the digits copies? (the nearest 1 % lie within this distance of a training digit, in grey levels; "
            "copies would lower it)",
            f"{near['percentile_1_distance_generated']:.1f}",
            f"test digits {near['percentile_1_distance_test']:.1f}",
            f"{near['count']:,} digits",
        ],
    ]


def stem_rows(metrics: dict) -> list[list[str]]:
    """The questions about regenerated stems."""
    final, baselines = metrics["final"], metrics["baselines"]

    def sure(metric: Metric) -> str:
        bounds = [bound for row in final.values() for bound in row["interval"].get(metric) or [row[metric]]]
        return (
            f"{metrics['protocol']['tracks']} tracks; 95 % within {metric.format(min(bounds))} to "
            f"{metric.format(max(bounds))}"
        )

    rows = [
        [
            f"Which rate brings a stem back at an SDR of {_range(SDR, final.values())} dB? (kbit/s; "
            f"{_stems_between(RATE, final)})",
            _range(RATE, final.values()),
            f"at equal SDR {_bd_rates(metrics['bd_rate'])} less rate than the same model with a formula "
            "in place of its waveform networks",
            sure(RATE),
        ]
    ]
    model, guessed = ([baselines[stem][key] for stem in STEMS] for key in ("model", "griffin_lim_decoded_mel"))
    if all(OPINION in row for row in (*model, *guessed)):
        lower = [
            f"{stem} ({OPINION.format(other[OPINION])} against {OPINION.format(row[OPINION])})"
            for stem, row, other in zip(STEMS, model, guessed, strict=True)
            if _below(OPINION, row, other)
        ]
        rows.append(
            [
                "How does it sound? (opinion score, 1 to 5, by a model; "
                f"{_stems_between(OPINION, dict(zip(STEMS, model, strict=True)))})",
                _range(OPINION, model),
                f"the mel latent alone, with an estimated phase: clearly better in {' and '.join(lower) or 'no stem'}; "
                "the model with fill: "
                f"{_range(OPINION, [baselines[stem]['model_filled'] for stem in STEMS])}",
                sure(OPINION),
            ]
        )
    return rows


def _range(metric: Metric, rows: Iterable[dict]) -> str:
    """The least and the greatest value over the stems."""
    values = [row[metric] for row in rows]
    return f"{metric.format(min(values))} to {metric.format(max(values))}"


def _bd_rates(rows: dict) -> str:
    """The least and the greatest saving over the stems; "undefined" if no curves have enough in common."""
    saved = sorted((-row["median"], stem) for stem, row in rows.items() if row["median"] is not None)
    if not saved:
        return "undefined"
    (least, first), (greatest, last) = saved[0], saved[-1]
    return f"{BD_RATE.format(least)} % ({first}) to {BD_RATE.format(greatest)} % ({last})"


def _stems_between(metric: Metric, rows: dict[str, dict]) -> str:
    """The stems of the least and of the greatest value."""
    return " to ".join(choose(rows, key=lambda stem: rows[stem][metric]) for choose in (min, max))


def _below(metric: Metric, row: dict, other: dict) -> bool:
    """True if the interval of a row lies below that of another; without intervals, if its value does."""
    bounds, others = (part["interval"].get(metric) or [part[metric]] for part in (row, other))
    return max(bounds) < min(others)


def clip_rows(metrics: dict) -> list[list[str]]:
    """The questions about generated stems."""
    scores = metrics["scores"]
    seeds = len(metrics["protocol"]["seeds"])

    def row(question: str, metric: Metric) -> list[str]:
        mean, deviation = scores["generated"][metric]
        training, real = (metric.format(scores[name][metric][0]) for name in ("training", "real"))
        return [
            question,
            metric.format(mean),
            f"training excerpts {training}; test excerpts {real}",
            f"± {metric.format(deviation)} over {seeds} seeds",
        ]

    near = metrics["nearest"]
    least = {name: f"{near[name]['features']['percentile_1']:.2f}" for name in ("generated", "real", "copies")}
    return [
        row("Is new sound like real stems? (Fréchet distance)", FRECHET),
        row("Is it the stem that was asked for?", RECOGNISED),
        row("Is the variety of real stems there? (recall)", RECALL_OF_CLIPS),
        [
            "Are new stems copies? (the nearest 1 % lie within this distance of a training excerpt, in features)",
            least["generated"],
            f"test excerpts {least['real']}; copies {least['copies']}",
            "first seed",
        ],
    ]
