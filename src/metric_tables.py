"""One description of each metric: its key in the JSON files, label, unit, decimals, better direction and tolerance.

The evaluation protocols, `verify`, the choice of the best checkpoint and the report all read these two tables.
"""

import math
from collections.abc import Iterable


class Metric(str):
    """A metric's key, usable as such in dictionaries and JSON, with its description.

    `better` is "lower", "higher" or "as real". `tolerance` is the difference up to which `verify` accepts another
    processor's rounding, in the unit of the JSON, or as a share of the recorded value if `relative`. None: the recorded
    standard deviation over seeds, if the metric has one, else `verify` does not compare the metric. `scale` is what
    a recorded value is multiplied by to be in `unit`.
    """

    label: str
    unit: str
    decimals: int
    better: str
    tolerance: float | None
    relative: bool
    scale: float

    def __new__(
        cls,
        key: str,
        label: str,
        unit: str,
        decimals: int,
        better: str,
        tolerance: float | None = None,
        relative: bool = False,
        scale: float = 1.0,
    ) -> "Metric":
        metric = super().__new__(cls, key)
        metric.label, metric.unit, metric.decimals, metric.better = label, unit, decimals, better
        metric.tolerance, metric.relative, metric.scale = tolerance, relative, scale
        return metric

    def allowed_difference(self, recorded: float) -> float:
        """The difference from a recorded value that `verify` accepts, for a metric with a tolerance."""
        return self.tolerance * abs(recorded) if self.relative else self.tolerance

    @property
    def heading(self) -> str:
        """Label and unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    def best(self, rows: Iterable[dict]) -> dict:
        """The row with the best value of this metric; the first one of equals. NaN is the worst value."""
        sign = 1 if self.better == "lower" else -1
        return min(rows, key=lambda row: (math.isnan(row[self]), sign * row[self]))

    def format(self, value: float | None) -> str:
        """The recorded value in this metric's unit and with its decimals; "undefined" for None."""
        return "undefined" if value is None else f"{value * self.scale:.{self.decimals}f}"


# --- digits ---

FID = Metric("fid_mnist", "FID (mnist)", "", 3, "lower")
KID = Metric("kid_mnist", "KID (mnist)", "", 4, "lower")
INCEPTION_SCORE = Metric("inception_score_mnist", "Inception Score (mnist)", "", 3, "as real")
PRECISION = Metric("precision_mnist", "Precision (mnist)", "", 3, "higher")
RECALL = Metric("recall_mnist", "Recall (mnist)", "", 3, "higher")
DENSITY = Metric("density_mnist", "Density (mnist)", "", 3, "as real")
COVERAGE = Metric("coverage_mnist", "Coverage (mnist)", "", 3, "higher")
DIGIT_ACCURACY = Metric("requested_digit_accuracy", "Accuracy of the requested digit", "", 4, "higher")
CLASSIFICATION_ACCURACY = Metric("classification_accuracy_score", "Classification accuracy score", "", 4, "higher")
RAREST_DIGIT = Metric("smallest_digit_share", "Share of the rarest digit", "", 4, "as real")
COMMONEST_DIGIT = Metric("largest_digit_share", "Share of the most frequent digit", "", 4, "as real")
SEVERAL_PARTS = Metric("several_parts_share", "Share of digits in several parts", "", 4, "as real")
FID_INCEPTION = Metric("fid_inception", "FID (inception)", "", 2, "lower")
KID_INCEPTION = Metric("kid_inception", "KID (inception)", "", 4, "lower")
INCEPTION_SCORE_INCEPTION = Metric("inception_score_inception", "Inception Score (inception)", "", 2, "higher")

IMAGE_METRICS = (
    FID, KID, INCEPTION_SCORE, PRECISION, RECALL, DENSITY, COVERAGE, DIGIT_ACCURACY, CLASSIFICATION_ACCURACY,
    RAREST_DIGIT, COMMONEST_DIGIT, SEVERAL_PARTS,
    FID_INCEPTION, KID_INCEPTION, INCEPTION_SCORE_INCEPTION,
)  # fmt: skip
BEST_GENERATOR = FID  # on the validation digits, it decides which checkpoint is published

# --- stems ---

SDR = Metric("sdr_museval_db", "SDR (BSS Eval v4)", "dB", 1, "higher", tolerance=0.05)
RATE = Metric("rate_kbit_s", "rate of both latents", "kbit/s", 1, "lower", tolerance=0.005, relative=True)
MEL_RATE = Metric("mel_rate_kbit_s", "of which z_mel", "kbit/s", 2, "lower", tolerance=0.005, relative=True)
RATE_MEAN = Metric("rate_mean_kbit_s", "rate, mean over tracks", "kbit/s", 1, "lower", tolerance=0.005, relative=True)
SDR_GLOBAL = Metric("sdr_global_db", "SDR, global", "dB", 1, "higher", tolerance=0.05)
BD_RATE = Metric("bd_rate_percent", "BD-rate", "%", 1, "lower")
SI_SDR = Metric("si_sdr_db", "SI-SDR", "dB", 1, "higher", tolerance=0.05)
SNR = Metric("snr_db", "SNR", "dB", 1, "higher", tolerance=0.05)
MSE = Metric("mse", "MSE", "10⁻⁶", 0, "lower", tolerance=0.01, relative=True, scale=1e6)
STFT_DISTANCE = Metric("stft_distance", "STFT distance", "", 2, "lower", tolerance=0.005, relative=True)
MEL_ERROR = Metric("mel_error_db", "error of the decoded mel", "dB", 2, "lower", tolerance=0.05)
OPINION = Metric("zimtohrli_mos", "opinion score", "1 to 5", 2, "higher", tolerance=0.05)
NEGATIVE_ELBO = Metric("objective_kbit_s", "negative ELBO", "kbit/s", 3, "lower")
FLOW_LOSS = Metric("flow_loss", "flow-matching loss", "", 4, "lower")
FRECHET = Metric("frechet_distance", "Fréchet distance", "", 2, "lower")
RECOGNISED = Metric("recognised", "recognised", "", 3, "higher")
PRECISION_OF_CLIPS = Metric("precision", "precision", "", 2, "higher")
RECALL_OF_CLIPS = Metric("recall", "recall", "", 2, "higher")
COVERAGE_OF_CLIPS = Metric("coverage", "coverage", "", 2, "higher")

AUDIO_METRICS = (
    SDR, RATE, MEL_RATE, RATE_MEAN, SDR_GLOBAL, SI_SDR, SNR, MSE, STFT_DISTANCE, MEL_ERROR,
    OPINION, NEGATIVE_ELBO,
)  # fmt: skip
CLIP_METRICS = (FRECHET, RECOGNISED, PRECISION_OF_CLIPS, RECALL_OF_CLIPS, COVERAGE_OF_CLIPS)
BEST_FLOW = FLOW_LOSS  # on the validation tracks, it decides which checkpoint is published
BEST_STEM_VAE = NEGATIVE_ELBO  # on the validation tracks, it decides which checkpoint is published
