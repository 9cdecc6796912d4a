"""Typed configurations: the only home of defaults."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class ImageConfig:
    """Everything that decides what a DCGAN training run computes.

    Defaults are the full run. Learning rates are Adam's; `r1_*` is the gradient penalty on real images (Mescheder et
    al. 2018), applied every `r1_interval` steps with its weight scaled up to match (Karras et al. 2020).
    """

    latent_dim: int = 100
    generator_width: int = 32  # channels of the last hidden layer; doubles with every halving of the image
    generator_depth: int = 4  # hidden convolutions: 2 (from 7x7 up), 3 (from 4x4 up) or 4 (one more at 7x7)
    discriminator_width: int = 32  # channels of the first layer; doubles with every halving of the image
    discriminator_depth: int = 4  # hidden convolutions: 3 (strided) or 4 (one more at 7x7)
    discriminator_norm: str = "batch"  # "none", "batch" or "spectral"
    epochs: int = 50
    batch_size: int = 100
    learning_rate: float = 5e-4
    beta1: float = 0.5
    beta2: float = 0.99
    decay_fraction: float = 0.6  # share of the run, at its end, over which the learning rate falls to zero
    r1_weight: float = 0.1  # 0 turns the penalty off
    r1_interval: int = 16  # steps
    ema_decay: float = 0.9995  # per step
    checkpoint_every: int = 5  # epochs
    seed: int = 0

    def __post_init__(self) -> None:
        if self.discriminator_norm not in ("none", "batch", "spectral"):
            raise ValueError(f"discriminator_norm is {self.discriminator_norm!r}: use 'none', 'batch' or 'spectral'")
        for name, known in (("generator_depth", (2, 3, 4)), ("discriminator_depth", (3, 4))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)}: use one of {', '.join(map(str, known))}")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: it must not be negative")
        for name in ("latent_dim", "generator_width", "discriminator_width", "epochs", "batch_size",
                     "r1_interval", "checkpoint_every"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")


@dataclass(frozen=True)
class ClassifierConfig:
    """The reference digit classifier, whose features define the `mnist` metrics."""

    width: int = 32
    epochs: int = 14
    batch_size: int = 256
    learning_rate: float = 3e-3  # peak of the one-cycle schedule
    weight_decay: float = 0.05
    dropout: float = 0.3
    label_smoothing: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class EvaluationConfig:
    """How generated digits are judged."""

    count: int = 10_000  # images per seed
    seeds: tuple[int, ...] = (1000, 1001, 1002)
    neighbours: int = 3  # k of the precision and recall manifolds (Kynkaanniemi et al. 2019)
    splits: int = 10  # of the Inception Score
    kid_subsets: int = 100
    kid_subset_size: int = 1000


STEMS = ("drums", "bass", "other", "vocals")  # in the order of a .stem.mp4, where they follow the mixture
FRAMES = tuple(2**exponent for exponent in range(12))  # samples a frame can have


@dataclass(frozen=True)
class AudioConfig:
    """Everything that decides how sound is represented and what a training run of the stem VAE computes."""

    sample_rate: int = 22050  # Hz; stems are mixed to mono
    mel_bands: int = 80  # a multiple of 8
    mel_window: int = 1024  # samples
    mel_hop: int = 256  # samples
    # Of drums, bass, other, vocals: short frames for onsets, long ones for tones.
    mdct_bins: tuple[int, ...] = (256, 2048, 1024, 1024)
    latent_dim: int = 64  # of z_mel, a frame of 4 mel frames
    mel_channels: int = 32
    mel_hidden: int = 256
    fine_channels: int = 24
    tracks: int | None = None  # trained on: the first ones; None for all
    epochs: int = 40
    crop: int = 32768  # samples
    batch_size: int = 2  # crops of each stem
    learning_rate: float = 1.5e-3  # Adam's, falling to zero over the last `decay_fraction` of the run
    beta2: float = 0.99
    decay_fraction: float = 0.6
    gradient_norm: float = 5.0  # longer gradients, of kbit/s, are shortened to it
    ema_decay: float = 0.998  # per step
    sdr_range_db: tuple[float, float] = (6.0, 26.0)  # of the water levels drawn in training
    gain_range_db: tuple[float, float] = (-8.0, 4.0)  # of the crops' random gain
    speed_range: tuple[float, float] = (0.9, 1.1)  # of the crops' random speed
    mel_deviation_db: float = 15.0  # of the Gaussian that also asks for the mel below the water level
    checkpoint_every: int = 5  # epochs
    seed: int = 0

    def __post_init__(self) -> None:
        # As JSON gives them back they are lists.
        for name in ("mdct_bins", "sdr_range_db", "gain_range_db", "speed_range"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: it must not be negative")
        if self.mel_bands % 8:
            raise ValueError(f"mel_bands is {self.mel_bands}: it must be a multiple of 8")
        # So that pieces of long sound, and MDCT frames in the mel's, are whole numbers of frames.
        if self.mel_hop not in FRAMES:
            raise ValueError(f"mel_hop is {self.mel_hop}: it must be a power of 2 up to {FRAMES[-1]}")
        if len(self.mdct_bins) != len(STEMS) or any(b not in FRAMES or b < self.mel_hop for b in self.mdct_bins):
            raise ValueError(
                f"mdct_bins is {self.mdct_bins}: for each of {', '.join(STEMS)}, it must be a power of 2 "
                f"from mel_hop, {self.mel_hop}, to {FRAMES[-1]}"
            )
        if self.tracks is not None and self.tracks < 1:
            raise ValueError(f"tracks is {self.tracks}: it must be at least 1")
        for name in ("epochs", "crop", "batch_size", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")


@dataclass(frozen=True)
class StemClassifierConfig:
    """The stem classifier, whose features judge generated audio."""

    width: int = 16
    steps: int = 500
    batch_size: int = 16
    learning_rate: float = 2e-3  # peak of the one-cycle schedule
    weight_decay: float = 0.05
    dropout: float = 0.3
    label_smoothing: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class AudioEvaluationConfig:
    """How regenerated and generated stems are judged."""

    curve_sdr_db: tuple[float, ...] = (9.0, 12.0, 15.0, 18.0, 21.0, 24.0)  # asked of reverse water-filling
    heard_sdr_db: tuple[float, ...] = (12.0, 18.0, 24.0)  # of those, the points scored perceptually
    fill: float = 0.75  # others, of `calibration_fills`, are scored on the validation tracks
    calibration_sdr_db: tuple[float, ...] = (17.5, 19.0, 20.5)
    calibration_fills: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    equal_sdr_db: tuple[float, ...] = (12.0, 16.0, 20.0)  # at which rates are compared with the closed form's
    generated: int = 50  # of each stem
    tracks: int | None = None  # of the split; None for all
    seed: int = 0


# SDR in dB that the published model's water levels aim for, of drums, bass, other, vocals: the recorded operating
# point. RESULTS.md tells how it was chosen.
OPERATING_SDR_DB = (18.6, 18.5, 18.5, 18.8)

AUDIO_PROFILES = {
    "full": (AudioConfig(), AudioEvaluationConfig()),
    "quick": (
        AudioConfig(epochs=2, checkpoint_every=1, mel_channels=16, fine_channels=8, tracks=25),
        AudioEvaluationConfig(curve_sdr_db=(12.0, 20.0), heard_sdr_db=(12.0,), generated=4, tracks=2),
    ),
}
FULL_TRAINING_TRACKS = 80
PROFILES = {
    "full": (ImageConfig(), EvaluationConfig()),
    "quick": (ImageConfig(epochs=2, checkpoint_every=1), EvaluationConfig(count=2_000, seeds=(1000,))),
}
FULL_TRAINING_COUNT = 50_000  # digits


def image_profile(name: str, training_count: int) -> tuple[ImageConfig, EvaluationConfig]:
    """What to compute for `quick` (minutes) or `full` (the published result).

    On a smaller set the epochs, and the interval of checkpoints, grow in proportion: about as many steps are made.
    """
    config, evaluation = PROFILES[name]
    return _stretched(config, FULL_TRAINING_COUNT / training_count), evaluation


def audio_profile(name: str, training_tracks: int) -> tuple[AudioConfig, AudioEvaluationConfig]:
    """Likewise, for the stem VAE."""
    config, evaluation = AUDIO_PROFILES[name]
    return _stretched(config, (config.tracks or FULL_TRAINING_TRACKS) / training_tracks), evaluation


def _stretched(config, ratio: float):
    scale = max(1, round(ratio))
    return replace(config, epochs=scale * config.epochs, checkpoint_every=scale * config.checkpoint_every)
