"""Every default, as typed configurations, and how a configuration is rebuilt from a file."""

import re
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from src.errors import CheckpointError, UsageError

STEMS = ("drums", "bass", "other", "vocals")  # the order of a .stem.mp4, after its mixture
MIN_RATE, MAX_RATE = 1_000, 1_000_000  # sample rates of recordings and models in Hz
FRAME_LENGTHS = tuple(2**exponent for exponent in range(12))  # allowed frame lengths in samples
SPLITS = ("train", "validation", "test")  # named by load_mnist and load_musdb18

LONGEST_NUMBER = 32  # digits that `image generate --digits` writes
MAX_SEED = 2**32 - 1  # the seeds that every random generator here distinguishes

# Thresholds of silence. They differ because they answer different questions.
SILENT_EXCERPT_POWER = 1e-6  # mean power below which an excerpt is not trained on or evaluated: -60 dB
BOOTSTRAP_RESAMPLES = 9_999  # of the tracks, for the intervals of medians
BD_RATE_MIN_COMMON_DB = 6.0  # range of SDR that two curves of a track must have in common for its BD-rate
UNDEFINED_METRIC_POWER = 1e-10  # mean power of a reference below which its metrics are undefined: -100 dB
MEL_RANGE_DB = (-80.0, 20.0)  # range of the log-mel spectrograms that the VAE's networks receive
LOG_FLOOR_POWER = 1e-10  # mel power is clamped to this before the logarithm: -100 dB


def check_seed(seed: int) -> None:
    """Raise UsageError unless `seed` lies between 0 and `MAX_SEED`."""
    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"seed is {seed}: it must lie between 0 and {MAX_SEED}")


def check_number(digits: str) -> None:
    """Raise UsageError unless `digits` are 1 to `LONGEST_NUMBER` of the characters 0 to 9."""
    if not (isinstance(digits, str) and re.fullmatch(rf"[0-9]{{1,{LONGEST_NUMBER}}}", digits)):
        raise UsageError(f"digits are {digits!r}: ask for 1 to {LONGEST_NUMBER} of the characters 0 to 9")


def _check_spectrogram(config) -> None:
    """Raise UsageError if no log-mel spectrogram has the settings of an `AudioConfig` or `FlowConfig`."""
    # A power of 2, so that a block of a long recording is a whole number of frames of every kind.
    if config.mel_hop not in FRAME_LENGTHS:
        raise UsageError(f"mel_hop is {config.mel_hop}: it must be a power of 2 up to {FRAME_LENGTHS[-1]}")
    _check_at_least(config, config.mel_hop, "mel_window")
    _check_at_least(config, MIN_RATE, "sample_rate")
    _check_at_least(config, 1, "mel_bands")


def _check_at_least(config, least: int, *names: str) -> None:
    for name in names:
        if (value := getattr(config, name)) < least:
            bound = "must not be negative" if least == 0 else f"must be at least {least}"
            raise UsageError(f"{name} is {value}: it {bound}")


@dataclass(frozen=True)
class ImageConfig:
    """All settings that determine the result of a DCGAN training run. The defaults are the full run."""

    latent_dim: int = 100
    classes: int = 10  # digits that can be asked for; 0 is the unconditional DCGAN
    generator_width: int = 32  # channels of a layer at 28x28; doubles with every halving of the image
    generator_depth: int = 3  # hidden convolutions: 3 (strided) or 4 (one more at 7x7)
    # The generator's last layer: a "transposed" convolution from 14x14, as in the paper, or a "convolution" of a hidden
    # layer at 28x28.
    generator_output: str = "transposed"
    discriminator_width: int = 36  # channels of the first layer; doubles with every halving of the image
    discriminator_depth: int = 3  # hidden convolutions: 3 (strided) or 4 (one more at 7x7)
    discriminator_norm: str = "batch"  # "none", "batch" or "spectral"
    epochs: int = 50
    batch_size: int = 100
    learning_rate: float = 7e-4  # Adam's, in both networks
    beta1: float = 0.5  # Adam's
    beta2: float = 0.99  # Adam's
    warm_up_steps: int = 0  # steps over which the learning rate rises linearly
    decay_fraction: float = 0.6  # final share of the run, over which the learning rate falls linearly to zero
    r1_weight: float = 0.05  # gradient penalty on real images (Mescheder et al. 2018); 0 turns it off
    r1_interval: int = 16  # steps between penalties; the weight is scaled up to match (Karras et al. 2020)
    ema_decay: float = 0.9998  # decay of the averaged generator, per step
    checkpoint_every: int = 5  # epochs
    seed: int = 0

    def __post_init__(self) -> None:
        if self.discriminator_norm not in ("none", "batch", "spectral"):
            raise UsageError(f"discriminator_norm is {self.discriminator_norm!r}: use 'none', 'batch' or 'spectral'")
        if self.generator_output not in ("transposed", "convolution"):
            raise UsageError(f"generator_output is {self.generator_output!r}: use 'transposed' or 'convolution'")
        for name in ("generator_depth", "discriminator_depth"):
            if getattr(self, name) not in (3, 4):
                raise UsageError(f"{name} is {getattr(self, name)}: use 3 or 4")
        if self.classes not in (0, 10):
            raise UsageError(f"classes is {self.classes}: use 10, or 0 for an unconditional DCGAN")
        check_seed(self.seed)
        _check_at_least(self, 0, "warm_up_steps")
        _check_at_least(
            self, 1, "latent_dim", "generator_width", "discriminator_width", "epochs", "batch_size", "r1_interval",
            "checkpoint_every",
        )  # fmt: skip


@dataclass(frozen=True)
class ClassifierConfig:
    """The reference digit classifier, whose features define the `mnist` metrics."""

    width: int = 32  # channels of the first convolution
    epochs: int = 14
    batch_size: int = 256
    learning_rate: float = 3e-3  # peak of the one-cycle schedule
    weight_decay: float = 0.05
    dropout: float = 0.3
    label_smoothing: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class EvaluationConfig:
    """The evaluation protocol of generated digits."""

    count: int = 10_000  # images per seed
    seeds: tuple[int, ...] = tuple(range(1000, 1008))
    neighbours: int = 3  # k of the precision and recall manifolds (Kynkaanniemi et al. 2019)
    density_neighbours: int = 5  # k of density and coverage (Naeem et al. 2020)
    classifier_epochs: int = 3  # of the trainings for the classification accuracy score; 0 leaves it out
    classifier_digits: int = 50_000  # on which each of them is trained
    classifier_seeds: int = 3  # the first seeds, for which they are trained
    splits: int = 10  # random parts of the set for the Inception Score
    kid_subsets: int = 100
    kid_subset_size: int = 1000  # images


@dataclass(frozen=True)
class AudioConfig:
    """All settings that determine the audio representation and the result of a training run of the stem VAE."""

    sample_rate: int = 22050  # Hz; stems are mixed to mono
    mel_bands: int = 80  # a multiple of 8
    mel_window: int = 1024  # samples
    mel_hop: int = 256  # samples
    # MDCT bins for drums, bass, other, vocals: short frames resolve onsets, long frames resolve tones.
    mdct_bins: tuple[int, ...] = (256, 2048, 1024, 1024)
    latent_dim: int = 64  # numbers in a frame of z_mel, which covers 4 mel frames
    mel_channels: int = 32
    mel_hidden: int = 256
    fine_channels: int = 24
    tracks: int | None = None  # number of training tracks, from the first; None for all
    epochs: int = 40
    crop: int = 32768  # samples
    batch_size: int = 2  # crops of each stem
    learning_rate: float = 1.5e-3  # Adam's, at its peak
    beta1: float = 0.9  # Adam's
    beta2: float = 0.99  # Adam's
    warm_up_steps: int = 50  # steps over which the learning rate rises linearly
    decay_fraction: float = 0.6  # final share of the run, over which the learning rate falls linearly to zero
    max_gradient_norm: float = 5.0  # gradient clipping, for a loss in kbit/s
    ema_decay: float = 0.998  # decay of the averaged model, per step
    sdr_range_db: tuple[float, float] = (6.0, 26.0)  # range of the crops' random target SDR, which sets the water level
    gain_range_db: tuple[float, float] = (-8.0, 4.0)  # range of the crops' random gain
    speed_range: tuple[float, float] = (0.9, 1.1)  # range of the crops' random speed
    mel_loss_std_db: float = 15.0  # standard deviation of the auxiliary Gaussian log-mel loss
    checkpoint_every: int = 5  # epochs
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("mdct_bins", "sdr_range_db", "gain_range_db", "speed_range"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON returns lists
        _check_spectrogram(self)
        if self.mel_bands % 8:
            raise UsageError(f"mel_bands is {self.mel_bands}: it must be a multiple of 8")
        if len(self.mdct_bins) != len(STEMS) or any(b not in FRAME_LENGTHS or b < self.mel_hop for b in self.mdct_bins):
            raise UsageError(
                f"mdct_bins is {self.mdct_bins}: for each of {', '.join(STEMS)}, it must be a power of 2 "
                f"from mel_hop, {self.mel_hop}, to {FRAME_LENGTHS[-1]}"
            )
        check_seed(self.seed)
        _check_at_least(self, 0, "warm_up_steps")
        _check_at_least(self, 1, "epochs", "crop", "batch_size", "checkpoint_every")
        if self.tracks is not None:
            _check_at_least(self, 1, "tracks")


@dataclass(frozen=True)
class FlowConfig:
    """All settings that determine the result of a training run of the stem flow."""

    sample_rate: int = 22050  # Hz; stems are mixed to mono
    mel_bands: int = 80
    mel_window: int = 1024  # samples
    mel_hop: int = 256  # samples
    latent_dim: int = 96  # numbers in a latent frame, which covers 4 mel frames
    width: int = 256  # channels of the network
    blocks: int = 8  # dilated convolutions
    dropout: float = 0.1
    common_noise: float = 0.5  # share of the noise's variance that all frames of a clip have in common
    style_means: int = 24  # broadest coefficients whose mean over a clip is part of its style
    style_deviations: int = 8  # broadest coefficients whose standard deviation is
    style_noise: float = 0.1  # standard deviation of the noise on a training window's normalised style
    window: int = 64  # latent frames of a training window: 3 seconds
    context_share: float = 0.25  # share of the windows whose first frames are known
    condition_dropout: float = 0.1  # share of the windows without their stem and style
    epochs: int = 50
    passes_per_epoch: int = 6  # over the tracks: each draws other places, speeds and gains
    batch_size: int = 4  # windows of each stem
    learning_rate: float = 1e-3  # Adam's, at its peak
    beta1: float = 0.9  # Adam's
    beta2: float = 0.99  # Adam's
    warm_up_steps: int = 100  # steps over which the learning rate rises linearly
    decay_fraction: float = 0.6  # final share of the run, over which the learning rate falls linearly to zero
    max_gradient_norm: float = 1.0  # gradient clipping
    ema_decay: float = 0.999  # decay of the averaged model, per step
    gain_range_db: tuple[float, float] = (-4.0, 4.0)  # range of the windows' random gain
    speed_range: tuple[float, float] = (0.9, 1.1)  # range of the windows' random speed
    checkpoint_every: int = 5  # epochs
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("gain_range_db", "speed_range"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON returns lists
        _check_spectrogram(self)
        check_seed(self.seed)
        _check_at_least(self, 0, "warm_up_steps")
        _check_at_least(
            self, 1, "latent_dim", "width", "blocks", "epochs", "passes_per_epoch", "batch_size", "checkpoint_every"
        )
        _check_at_least(self, 17, "window")
        if not 0 <= self.common_noise <= 1:
            raise UsageError(f"common_noise is {self.common_noise}: it must lie between 0 and 1")
        for name in ("style_means", "style_deviations"):
            if not 1 <= (count := getattr(self, name)) <= self.latent_dim:
                raise UsageError(f"{name} is {count}: it must lie between 1 and latent_dim, {self.latent_dim}")

    @property
    def style_dim(self) -> int:
        """Numbers in a clip's style."""
        return self.style_means + self.style_deviations


@dataclass(frozen=True)
class StemClassifierConfig:
    """The reference stem classifier, whose features evaluate generated audio."""

    width: int = 16  # channels of the first convolution
    steps: int = 500
    batch_size: int = 16
    learning_rate: float = 2e-3  # peak of the one-cycle schedule
    weight_decay: float = 0.05
    dropout: float = 0.3
    label_smoothing: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class AudioEvaluationConfig:
    """The evaluation protocol of reconstructed stems."""

    curve_sdr_db: tuple[float, ...] = (9.0, 12.0, 15.0, 18.0, 21.0, 24.0)  # targets of reverse water-filling
    perceptual_sdr_db: tuple[float, ...] = (12.0, 18.0, 24.0)  # the targets that are also scored perceptually
    fill: float = 0.75  # amplitude of the noise; `calibration_fills` are scored on the validation tracks
    calibration_sdr_db: tuple[float, ...] = (17.5, 19.0, 20.5)
    calibration_fills: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    tracks: int | None = None  # number of tracks of the split, from the first; None for all
    seed: int = 0


@dataclass(frozen=True)
class FlowEvaluationConfig:
    """The evaluation protocol of generated stems."""

    count: int = 50  # clips of each stem and seed
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # of the clips; of the random halves of the tracks, too
    neighbours: int = 3  # k of precision and recall (Kynkaanniemi et al. 2019) and of coverage (Naeem et al. 2020)
    minutes: int = 50  # clips of 60 s of each stem
    strengths: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)  # of variations
    tracks: int | None = None  # number of tracks of the split, from the first; None for all


# Target SDR in dB of the published model for drums, bass, other, vocals: the recorded operating point. RESULTS.md says
# how it was chosen.
OPERATING_SDR_DB = (18.6, 18.5, 18.5, 18.8)
# Standard deviation of the latents of generated digits. Training draws them with 1; less makes digits more typical and
# less diverse (the truncation of Brock et al. 2019, https://arxiv.org/abs/1809.11096).
LATENT_STD = 0.99
GUIDANCE = 1.5  # strength of stem and style in generated sound; 0 is the plain flow
GUIDANCE_TIMES = (0.3, 1.0)  # times of the path at which it applies; earlier, it makes drums worse
BEGINNINGS = 8  # of a continuation that are drawn; the one that fits the recording best goes on
STYLE_SMOOTHING = 0.5  # share of noise in the style of generated sound; 0 takes a training window's own
STYLE_SPREAD = 0.85  # deviation of generated styles from their mean, relative to that of the training windows' styles
SOLVER_STEPS = 8  # of the flow from noise to a latent
CHECKPOINT_SDR_DB = (12.0, 18.2)  # target SDRs at which checkpoints are compared
EQUAL_IMAGES = 60_000  # training images seen at which the DCGANs of `image bench` are also scored
FID_REACHED = 1.0  # FID to which the training time is reported
INK = 64  # grey level above which a pixel belongs to a part of a digit
SAMPLE_GRID_SIDE = 10  # rows and columns of the sample grid of each checkpoint

IMAGE_PROFILES = {
    "full": (ImageConfig(), EvaluationConfig()),
    "quick": (
        ImageConfig(epochs=2, checkpoint_every=1),
        EvaluationConfig(count=2_000, seeds=(1000,), classifier_epochs=0),
    ),
}
AUDIO_PROFILES = {
    "full": (AudioConfig(), AudioEvaluationConfig()),
    "quick": (
        AudioConfig(epochs=2, checkpoint_every=1, mel_channels=16, fine_channels=8, tracks=25),
        AudioEvaluationConfig(curve_sdr_db=(12.0, 20.0), perceptual_sdr_db=(12.0,), tracks=2),
    ),
}
FLOW_PROFILES = {
    "full": (FlowConfig(), FlowEvaluationConfig()),
    "quick": (
        FlowConfig(epochs=2, checkpoint_every=1, width=128, blocks=4),
        FlowEvaluationConfig(count=4, seeds=(0, 1), minutes=1, tracks=2),
    ),
}
PROFILES = tuple(IMAGE_PROFILES)
FULL_TRAINING_DIGITS = 50_000
FULL_TRAINING_TRACKS = 80


def image_profile(name: str, training_digits: int) -> tuple[ImageConfig, EvaluationConfig]:
    """Training and evaluation settings of the profile `quick` (minutes) or `full` (the published result).

    On a smaller training set the epochs and the checkpoint interval grow in proportion, so that the number of steps
    stays about the same.
    """
    config, evaluation = IMAGE_PROFILES[name]
    return _lengthen(config, FULL_TRAINING_DIGITS / training_digits), evaluation


def audio_profile(name: str, training_tracks: int) -> tuple[AudioConfig, AudioEvaluationConfig]:
    """Training and evaluation settings of the profile `quick` (minutes) or `full` (the published result).

    With fewer training tracks the epochs and the checkpoint interval grow in proportion, so that the number of steps
    stays about the same.
    """
    config, evaluation = AUDIO_PROFILES[name]
    return _lengthen(config, (config.tracks or FULL_TRAINING_TRACKS) / training_tracks), evaluation


def flow_profile(name: str, training_tracks: int) -> tuple[FlowConfig, FlowEvaluationConfig]:
    """Training and evaluation settings of the stem flow in the profile `quick` (minutes) or `full` (the published
    result), as `audio_profile`."""
    config, evaluation = FLOW_PROFILES[name]
    return _lengthen(config, FULL_TRAINING_TRACKS / training_tracks), evaluation


def _lengthen(config, ratio: float):
    factor = max(1, round(ratio))
    return replace(config, epochs=factor * config.epochs, checkpoint_every=factor * config.checkpoint_every)


# --- configurations in files ---

# Fields that older files lack, with the value that was in force when those files were written.
VALUE_WHEN_ABSENT = {
    ImageConfig: {"warm_up_steps": 0, "classes": 0, "generator_output": "convolution"},
    ClassifierConfig: {"label_smoothing": 0.0},
    AudioConfig: {"beta1": 0.9, "warm_up_steps": 50},
    FlowConfig: {},
    StemClassifierConfig: {"label_smoothing": 0.05},
}
FORMER_NAMES = {"gradient_norm": "max_gradient_norm", "mel_deviation_db": "mel_loss_std_db"}

Config = TypeVar("Config", ImageConfig, ClassifierConfig, AudioConfig, FlowConfig, StemClassifierConfig)


def from_json(kind: type[Config], content: dict) -> Config:
    """Rebuild a configuration from its JSON object.

    A field that the object lacks gets the value that was in force when such files were written, never today's default.

    Raises:
        CheckpointError: `content` has an unknown field, or lacks one that files have always had.
    """
    content = VALUE_WHEN_ABSENT[kind] | {FORMER_NAMES.get(name, name): value for name, value in content.items()}
    names = {field.name for field in fields(kind)}
    if content.keys() != names:
        unknown, missing = sorted(content.keys() - names), sorted(names - content.keys())
        raise CheckpointError(
            f"the configuration is not of type {kind.__name__}: unknown fields {_some(unknown)}, "
            f"missing fields {_some(missing)}"
        )
    return kind(**content)


def _some(names: list[str]) -> str:
    """The first three names, and the number of the others."""
    others = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(names[:3]) or "none") + others
