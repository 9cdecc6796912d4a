"""The first table of RESULTS.md: questions of both halves, each with its answer, a yardstick, and its spread."""

from statistics import stdev

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
EXCERPTS = {"training": "training excerpts", "real": "test excerpts"}  # the yardsticks of generated stems


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
    final, near, fids = metrics["final"], metrics["neighbours"], metrics["fid_spread"]["generated"]

    def row(question: str, metric: Metric, real: str) -> list[str]:
        scores = final[metric]
        sure = f"± {metric.format(scores['std'])} over {len(metrics['protocol']['seeds'])} seeds"
        return [question, metric.format(scores["mean"]), f"{real}: {metric.format(scores['real'])}", sure]

    return [
        [
            "Are the digits, as a set, like MNIST's test digits? (FID; 0 is best)",
            FID.format(final[FID]["mean"]),
            f"training digits: {FID.format(metrics['fid_references']['random_training']['test'])}",
            f"± {FID.format(stdev(fids))} over {len(fids)} seeds",
        ],
        row("Is a digit the one that was asked for? (share)", DIGIT_ACCURACY, "test digits"),
        row("Is all of MNIST's variety there? (recall; 1 is best)", RECALL, "validation digits"),
        [
            "Are the digits copies? (1 % are nearer to a training digit than this, in grey levels; a copy has 0)",
            f"{near['percentile_1_distance_generated']:.1f}",
            f"test digits: {near['percentile_1_distance_test']:.1f}",
            f"{near['count']:,} digits",
        ],
    ]


def stem_rows(metrics: dict) -> list[list[str]]:
    """The questions about regenerated stems, each answered for the stem that does worst."""
    final = metrics["final"]
    least, most = (choose(STEMS, key=lambda stem: final[stem][RATE]) for choose in (min, max))
    rate = [
        f"Which rate does a regenerated stem take at an SDR of {SDR.format(final[most][SDR])} dB? "
        f"(kbit/s; *{most}*, which takes most)",
        RATE.format(final[most][RATE]),
        f"*{least}*, which takes least: {RATE.format(final[least][RATE])}",
        _interval(RATE, final[most]["interval"][RATE]),
    ]
    return [rate, *saving_rows(metrics["bd_rate"]), *opinion_rows(metrics["baselines"])]


def saving_rows(bd_rates: dict) -> list[list[str]]:
    """The question about the rate that the model saves over a formula; none if no curves have enough in common."""
    defined = [stem for stem in STEMS if bd_rates[stem]["median"] is not None]
    if not defined:
        return []
    least, most = (choose(defined, key=lambda stem: -bd_rates[stem]["median"]) for choose in (min, max))
    return [
        [
            "How much rate do the networks for the waveform save over a formula, at equal SDR? "
            f"(%; *{least}*, which gains least)",
            BD_RATE.format(-bd_rates[least]["median"]),
            f"*{most}*, which gains most: {BD_RATE.format(-bd_rates[most]['median'])}",
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
            f"{question} (*{worst}*, the worst; SDR {SDR.format(score[SDR])} dB)",
            OPINION.format(score[OPINION]),
            f"spectrogram latent alone: {OPINION.format(phaseless[OPINION])}",
            _interval(OPINION, score["interval"][OPINION]),
        ]

    return [
        row("How good does it sound, from 1 to 5, as a model predicts?", "model"),
        row("And with noise where sound was lost?", "model_filled"),
    ]


def _interval(metric: Metric, bounds: list[float]) -> str:
    """A bootstrap interval over tracks."""
    return f"95 %: {metric.format(min(bounds))} to {metric.format(max(bounds))}"


def clip_rows(metrics: dict) -> list[list[str]]:
    """The questions about generated stems; the yardstick is the better one of two sets of real excerpts."""
    scores = metrics["scores"]
    near = {
        name: f"{metrics['nearest'][name]['features']['percentile_1']:.2f}" for name in ("generated", "real", "copies")
    }

    def row(question: str, metric: Metric) -> list[str]:
        answer, deviation = scores["generated"][metric]
        real = [{metric: scores[key][metric][0], "name": name} for key, name in EXCERPTS.items()]
        yardstick = metric.best(real)
        return [
            question,
            metric.format(answer),
            f"{yardstick['name']}: {metric.format(yardstick[metric])}",
            f"± {metric.format(deviation)} over {len(metrics['protocol']['seeds'])} seeds",
        ]

    return [
        row("Are generated stems, as a set, like those of the test songs? (Fréchet distance; 0 is best)", FRECHET),
        row("Is a stem the one that was asked for? (share)", RECOGNISED),
        row("Is the variety of real stems there? (recall; 1 is best)", RECALL_OF_CLIPS),
        [
            "Are generated stems copies? (1 % are nearer to a training excerpt than this, in features; of copies: "
            f"{near['copies']})",
            near["generated"],
            f"test excerpts: {near['real']}",
            "first seed",
        ],
    ]
