"""The first table of RESULTS.md: questions of both halves, each with its answer, a yardstick, and its spread."""

from statistics import mean

from src import paths
from src.config import STEMS, AudioConfig
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
    final, near = metrics["final"], metrics["neighbours"]

    def row(question: str, metric: Metric, name: str, real: float) -> list[str]:
        scores = final[metric]
        sure = f"± {metric.format(scores['std'])} over {len(metrics['protocol']['seeds'])} seeds"
        return [question, metric.format(scores["mean"]), f"{name}: {metric.format(real)}", sure]

    of_training = mean(metrics["fid_references"]["random_training"]["test"])
    set_question = "Are the digits, as a set, like MNIST's test digits? (FID; 0 is best)"
    digit_question = "Is a digit the one that was asked for? (share)"
    variety_question = "Is all of MNIST's variety there? (recall; 1 is best)"
    return [
        row(set_question, FID, "training digits", of_training),
        row(digit_question, DIGIT_ACCURACY, "test digits", final[DIGIT_ACCURACY]["real"]),
        row(variety_question, RECALL, "validation digits", final[RECALL]["real"]),
        [
            "Are the digits copies? (1st percentile of the distance to the nearest training digit, "
            "in grey levels; copies: 0)",
            f"{near['percentile_1_distance_generated']:.1f}",
            f"test digits: {near['percentile_1_distance_test']:.1f}",
            f"{near['count']:,} digits",
        ],
    ]


def stem_rows(metrics: dict) -> list[list[str]]:
    """The questions about regenerated stems, each answered for the stem that does worst."""
    final = metrics["final"]
    most = max(STEMS, key=lambda stem: final[stem][RATE])
    rate = [
        f"How many kbit/s does a regenerated stem need at an SDR of {SDR.format(final[most][SDR])} dB? "
        f"(stem *{most}*, the most)",
        RATE.format(final[most][RATE]),
        f"uncompressed, 16 bit: {RATE.format(16 * AudioConfig().sample_rate / 1000)}",
        _interval(RATE, final[most]["interval"][RATE]),
    ]
    return [rate, *saving_rows(metrics["bd_rate"]), *opinion_rows(metrics["baselines"])]


def saving_rows(bd_rates: dict) -> list[list[str]]:
    """The question about the rate that the model saves over a formula; none if no curves have enough in common."""
    defined = [stem for stem in STEMS if bd_rates[stem]["median"] is not None]
    if not defined:
        return []
    least = max(defined, key=lambda stem: bd_rates[stem]["median"])
    return [
        [
            "`z_fine` is computed by a formula and a neural network. How much rate does the network save? "
            f"(%, at equal SDR; stem *{least}*, the least)",
            BD_RATE.format(-bd_rates[least]["median"]),
            "the formula alone: 0",
            _interval(BD_RATE, [-bound for bound in bd_rates[least]["interval"]]),
        ]
    ]


def opinion_rows(baselines: dict) -> list[list[str]]:
    """The questions about the sound of regenerated stems; none if the opinion score was not measured."""
    if not all(OPINION in baselines[stem]["model"] for stem in STEMS):
        return []

    def row(question: str, key: str) -> list[str]:
        worst = min(STEMS, key=lambda stem: baselines[stem][key][OPINION])
        score, phaseless = baselines[worst][key], baselines[worst]["griffin_lim_decoded_mel"]
        return [
            f"{question} (stem *{worst}*, the worst)",
            OPINION.format(score[OPINION]),
            f"`z_mel` alone, estimated phase: {OPINION.format(phaseless[OPINION])}",
            _interval(OPINION, score["interval"][OPINION]),
        ]

    return [
        row("How good does a regenerated stem sound, from 1 to 5, as a model of hearing predicts?", "model"),
        row(
            "How good does it sound, from 1 to 5, with noise added where sound was lost? The noise lowers the SDR.",
            "model_filled",
        ),
    ]


def _interval(metric: Metric, bounds: list[float]) -> str:
    """A bootstrap interval over tracks."""
    return f"95 %: {metric.format(min(bounds))} to {metric.format(max(bounds))}"


def clip_rows(metrics: dict) -> list[list[str]]:
    """The questions about generated stems."""
    scores, near = metrics["scores"], metrics["nearest"]
    least = {name: f"{near[name]['features']['percentile_1']:.2f}" for name in ("generated", "real", "copies")}

    def row(question: str, metric: Metric) -> list[str]:
        answer, deviation = scores["generated"][metric]
        sure = f"± {metric.format(deviation)} over {len(metrics['protocol']['seeds'])} seeds"
        return [question, metric.format(answer), f"test excerpts: {metric.format(scores['real'][metric][0])}", sure]

    return [
        row("Are generated stems, as a set, like those of the test songs? (Fréchet distance; 0 is best)", FRECHET),
        row("Is a stem the one that was asked for? (share)", RECOGNISED),
        row("Is the variety of real stems there? (recall; 1 is best)", RECALL_OF_CLIPS),
        [
            "Are generated stems copies? (1st percentile of the distance to the nearest training excerpt, in features; "
            f"decoded copies: {least['copies']})",
            least["generated"],
            f"test excerpts: {least['real']}",
            "first seed",
        ],
    ]
