"""The two-latent VAE: `z_mel`, the log-mel spectrogram of a stem, and `z_fine`, the waveform's fine structure given it.

`MelVAE` is a convolutional VAE of the log-mel spectrogram. Its decoded spectrogram predicts the variance of every MDCT
coefficient. `FineVAE` codes the coefficients themselves, each with the precision that the water level D asks for: the
noisier the posterior, the fewer bits it carries. Together they are a scale hyperprior (Balle et al. 2018,
https://arxiv.org/abs/1802.01436) with a context model (Minnen et al. 2018, https://arxiv.org/abs/1809.02736): the prior
of a frame of `z_fine` depends on the frames already decoded.

The training objective is the negative ELBO in nats, KL(z_mel) + KL(z_fine) + distortion / (2 D). D is drawn at random
for each example, so one model serves every point of the rate-distortion curve.

The networks are convolutional, so a frame depends on a bounded stretch of sound, and a long file can be coded block by
block.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad, silu

from src import checkpoints, paths, runtime
from src.audio.spectrogram import MelSpectrogram, mdct
from src.audio.water_filling import LOG_POWER_PER_DB, posterior_log_noise, predicted_log_variance
from src.config import MEL_RANGE_DB, STEMS, AudioConfig

NATS_PER_KBIT = 1000 * math.log(2)
STRIDE = 4  # mel frames in a frame of z_mel
MEMORY = 32  # frames whose energy the context model averages: a power of 2
FORGETTING = 0.85  # weight of a frame in that average, relative to the next one
NEGLIGIBLE = -3.0  # ln(P / D) below which a coefficient is dropped
activate = partial(silu, inplace=True)  # in place: feature maps are as large as the MDCT, and memory is the limit


@dataclass(frozen=True)
class Gaussian:
    """Independent normal distributions: mean and log variance, of one shape."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Reparameterised sample. `noise` is standard normal, or zero for the mean."""
        return self.mean + noise * (self.log_variance / 2).exp()

    def divergence(self, prior: "Gaussian") -> Tensor:
        """KL(self || prior) in nats, for each element."""
        log_ratio = self.log_variance - prior.log_variance
        distance = (self.mean - prior.mean).square() * (-prior.log_variance).exp()
        return (log_ratio.exp() + distance - 1 - log_ratio) / 2


def autocast_if_training(module: nn.Module, device: torch.device) -> AbstractContextManager:
    """Mixed precision in training mode; float32, equal on every machine, in evaluation mode."""
    return runtime.autocast(device) if module.training else nullcontext()


def one_hot_stem(stem: str, count: int = 1) -> Tensor:
    """One-hot stem labels (count, stems), in the order of `STEMS`."""
    return one_hot(torch.full((count,), STEMS.index(stem)), len(STEMS)).float()


# --- z_mel ---


class MelVAE(nn.Module):
    """Log-mel spectrogram (batch, frames, bands) in dB <-> latent (batch, ceil(frames / 4), latent_dim).

    Encoder and decoder are convolutional in time and frequency and conditioned on the stem, given as weights (batch, 4)
    that sum to 1, in the order of `STEMS`. The prior of a latent frame is a normal distribution, predicted from the
    frames before it by a causal convolutional network.

    Both start as the two-dimensional cosine transform of 4 frames, of which the latent holds the `latent_dim` broadest
    patterns, and learn a correction. From a random initialisation, the networks take hours to reach the same rate.
    """

    def __init__(self, config: AudioConfig):
        super().__init__()
        self.register_buffer("patterns", cosine_patterns(config.mel_bands, config.latent_dim), persistent=False)
        width, hidden, latent = config.mel_channels, config.mel_hidden, config.latent_dim
        self.shape = (3 * width, config.mel_bands // 8)
        flat = math.prod(self.shape)
        self.stem = nn.Linear(len(STEMS), hidden, bias=False)
        self.level = nn.Linear(1, hidden)
        self.look = nn.Sequential(  # the convolutional encoder
            *(nn.Conv2d(1, width, 5, stride=(1, 2), padding=2), nn.SiLU(inplace=True)),
            *(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.SiLU(inplace=True)),
            *(nn.Conv2d(2 * width, 3 * width, 3, stride=2, padding=1), nn.SiLU(inplace=True)),
        )
        self.encode_in = nn.Conv1d(flat, hidden, 3, padding=1)
        self.encode_mid = nn.Conv1d(hidden, hidden, 3, padding=1)
        self.encode_out = nn.Conv1d(hidden, 2 * latent, 1)
        self.decode_in = nn.Conv1d(latent, hidden, 3, padding=1)
        self.decode_mid = nn.Conv1d(hidden, hidden, 3, padding=1)
        self.decode_out = nn.Conv1d(hidden, flat, 1)
        self.draw = nn.Sequential(  # the convolutional decoder
            *(nn.SiLU(inplace=True), nn.ConvTranspose2d(3 * width, 2 * width, 4, stride=2, padding=1)),
            *(nn.SiLU(inplace=True), nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1)),
            *(nn.SiLU(inplace=True), nn.ConvTranspose2d(width, width, (3, 4), stride=(1, 2), padding=1)),
            *(nn.SiLU(inplace=True), nn.Conv2d(width, 1, 3, padding=1)),
        )
        self.prior = CausalPrior(latent, hidden)
        for last in (self.encode_out, self.draw[-1]):  # starts as the cosine transform
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def encode(self, log_mel: Tensor, stem: Tensor, level_db: Tensor) -> Gaussian:
        """Posterior of the latent (batch, latent frames, latent_dim).

        `stem`: weights (batch, 4). `level_db` (batch,): the water level, below which detail is not worth its rate.
        """
        frames = log_mel.shape[1]
        normalised = normalise(log_mel).transpose(1, 2)
        normalised = pad(normalised, (0, -frames % STRIDE), mode="replicate").transpose(1, 2)
        with autocast_if_training(self, log_mel.device):
            features = self.look(normalised.unsqueeze(1)).transpose(2, 3).flatten(1, 2)  # (batch, flat, latent frames)
            condition = self.stem(stem) + self.level(normalise(level_db)[:, None])
            hidden = silu(self.encode_in(features) + condition[..., None])
            hidden = silu(self.encode_mid(hidden) + hidden)
            mean, log_variance = self.encode_out(hidden).float().transpose(1, 2).chunk(2, dim=2)
        linear = normalised.unflatten(1, (-1, STRIDE)).flatten(2) @ self.patterns
        return Gaussian(linear + mean, (log_variance - 2).clamp(-12, 4))

    def decode(self, latent: Tensor, stem: Tensor, frames: int) -> Tensor:
        """Log-mel spectrogram (batch, frames, bands) in dB of a latent; `frames` is at most 4 times its frames."""
        with autocast_if_training(self, latent.device):
            hidden = silu(self.decode_in(latent.transpose(1, 2)) + self.stem(stem)[..., None])
            hidden = silu(self.decode_mid(hidden) + hidden)
            correction = self.draw(self.decode_out(hidden).unflatten(1, self.shape).transpose(2, 3))
        linear = (latent @ self.patterns.T).unflatten(2, (STRIDE, -1)).flatten(1, 2)
        log_mel = denormalise((linear + correction[:, 0].float())[:, :frames])
        return log_mel.clamp(MEL_RANGE_DB[0] - 15, MEL_RANGE_DB[1])


def normalise(decibels: Tensor) -> Tensor:
    """dB to the range of about -1 to 3 that the networks receive."""
    return (decibels.clamp(*MEL_RANGE_DB) + 50) / 25


def denormalise(values: Tensor) -> Tensor:
    """The inverse of `normalise`, without its limits."""
    return values * 25 - 50


def cosine_patterns(bands: int, count: int) -> Tensor:
    """Orthonormal columns (4 bands, count): products of cosines over time and frequency, the `count` broadest.

    Detail in time ranks below detail in frequency, as it does in spectrograms of music.
    """
    bases = []
    for length in (STRIDE, bands):
        orders, positions = torch.arange(length)[:, None], torch.arange(length) + 0.5
        cosines = torch.cos(math.pi / length * orders * positions) * math.sqrt(2 / length)
        cosines[0] /= math.sqrt(2)
        bases.append(cosines)
    products = torch.einsum("at,bk->abtk", *bases).reshape(STRIDE * bands, STRIDE * bands)
    fineness = torch.arange(1, STRIDE + 1)[:, None] ** 2 * torch.arange(1, bands + 1)
    return products[fineness.flatten().argsort(stable=True)[:count]].T


class CausalPrior(nn.Module):
    """Prior of each frame of `z_mel`, given the frames before it and the stem."""

    DILATIONS = (1, 2, 4, 8)
    REACH = 2 + sum(DILATIONS)  # past frames that the prior depends on

    def __init__(self, latent: int, hidden: int):
        super().__init__()
        self.stem = nn.Linear(len(STEMS), hidden, bias=False)
        self.read = nn.Conv1d(latent, hidden, 2)
        self.blocks = nn.ModuleList(nn.Conv1d(hidden, hidden, 2, dilation=dilation) for dilation in self.DILATIONS)
        self.out = nn.Conv1d(hidden, 2 * latent, 1)
        self.carry = nn.Parameter(torch.full((latent,), 0.7))
        nn.init.zeros_(self.out.weight)  # starts as an autoregressive process of order 1
        nn.init.zeros_(self.out.bias)

    def forward(self, latent: Tensor, stem: Tensor) -> Gaussian:
        """Priors (batch, frames, latent_dim) of latents of that shape; `stem`: weights (batch, 4)."""
        with autocast_if_training(self, latent.device):
            hidden = self.read(pad(latent.transpose(1, 2), (2, -1))) + self.stem(stem)[..., None]
            for block, dilation in zip(self.blocks, self.DILATIONS, strict=True):
                hidden = hidden + silu(block(pad(silu(hidden), (dilation, 0))))
            mean, log_variance = self.out(silu(hidden)).float().transpose(1, 2).chunk(2, dim=2)
        return Gaussian(mean + self.carry * pad(latent, (0, 0, 1, -1)), log_variance.clamp(-8, 4))


# --- z_fine ---


@dataclass(frozen=True)
class FineOutput:
    """Output of `FineVAE`: (batch, frames, bins) each, in units of the square root of the water level."""

    divergence: Tensor  # KL of the posterior from the prior, nats
    decoded: Tensor  # estimate of the coefficients with the least squared error
    missing: Tensor  # variance that the estimate lacks


class FineVAE(nn.Module):
    """MDCT coefficients, given the variances that the decoded mel spectrogram predicts for them.

    With x the coefficient and P its predicted variance, both in units of the water level D, the posterior is N(x, N).
    The noise variance N depends on the decoded mel alone; it starts as that of reverse water-filling, P / (P - 1). The
    prior is N(0, P' + N); P' is refined from the mel and from the noisy coefficients of earlier frames. The decoder
    scales each noisy coefficient by a Wiener gain, estimated from all of its neighbours. Coefficients with ln(P / D)
    below `NEGLIGIBLE` are dropped: rate 0, estimate 0.
    """

    REACH_BINS = 10  # upper bound of the receptive field across bins, on one side

    def __init__(self, bins: int, channels: int, sample_rate: int):
        super().__init__()
        frequencies = (torch.arange(bins) + 0.5) / bins * sample_rate / 2
        octaves = torch.log2(frequencies / 440)
        position = torch.stack([octaves / 4, torch.cos(octaves), torch.sin(octaves)])
        self.register_buffer("position", position, persistent=False)
        self.read_mel = nn.Conv2d(4, channels, (3, 5), padding=(1, 2))
        self.mix_mel = nn.Conv2d(channels, channels, 1)
        self.noise = nn.Conv2d(channels, 1, (1, 3), padding=(0, 1))
        # Padded on both sides in time; `_variance_refinement` drops the later side: these layers are causal.
        self.read_past = nn.Conv2d(4, channels, (4, 9), padding=(4, 4))
        self.mix_past = nn.Conv2d(2 * channels, channels, (2, 3), padding=(1, 1))
        self.mix_bins = nn.Conv2d(channels, channels, (1, 5), padding=(0, 2))
        self.variance = nn.Conv2d(channels, 1, 1)
        self.read_all = nn.Conv2d(4, channels, (5, 9), padding=(2, 4))
        self.mix_all = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.gain = nn.Conv2d(channels, 1, 1)
        self.zero_heads()

    def zero_heads(self) -> None:
        """Set the learned corrections to zero, which leaves plain reverse water-filling."""
        for head in (self.noise, self.variance, self.gain):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, coefficients: Tensor, log_variance: Tensor, noise: Tensor) -> FineOutput:
        """Code coefficients over sqrt(D), given ln(P / D), with standard normal noise: (batch, frames, bins) each."""
        # Posterior: the coefficient plus noise whose variance both sides know.
        active = (log_variance > NEGLIGIBLE).float()
        mel_features, correction = self._mel_features(log_variance)
        log_noise = posterior_log_noise(log_variance, correction)
        noisy = coefficients + noise * (log_noise / 2).exp()

        # Prior of each frame, from the mel and the noisy coefficients of earlier frames.
        wiener_gain = torch.sigmoid(log_variance - log_noise) * active
        features = _coefficient_features(wiener_gain * noisy, wiener_gain)
        with autocast_if_training(self, coefficients.device):
            refinement = self._variance_refinement(features, mel_features)
            gain_correction = self._gain_correction(features, mel_features)
        refined = (log_variance + refinement).clamp(-20, 20)
        prior = Gaussian(torch.zeros_like(noisy), torch.logaddexp(refined, log_noise))
        divergence = Gaussian(coefficients, log_noise).divergence(prior) * active

        # Estimate, from all neighbours.
        gain = torch.sigmoid(log_variance - log_noise + gain_correction)
        missing = torch.where(active > 0, gain * log_noise.exp(), log_variance.exp())
        return FineOutput(divergence, gain * noisy * active, missing)

    def _mel_features(self, log_variance: Tensor) -> tuple[Tensor, Tensor]:
        """Features (batch, channels, frames, bins) of the mel, and the correction of the log noise variance."""
        batch, frames, bins = log_variance.shape
        position = self.position[:, None, :bins].expand(batch, -1, frames, -1)
        features = torch.cat([(log_variance / 4).clamp(-3, 4)[:, None], position], dim=1)
        features = features.contiguous(memory_format=torch.channels_last)  # faster convolutions on the CPU
        with autocast_if_training(self, log_variance.device):
            hidden = activate(self.read_mel(features))
            hidden = activate(self.mix_mel(hidden) + hidden)
            return hidden, self.noise(hidden)[:, 0].float()

    def _variance_refinement(self, features: Tensor, mel_features: Tensor) -> Tensor:
        """Correction (batch, frames, bins) of the prior's log variance, from earlier frames."""
        frames = features.shape[2]
        past = activate(self.read_past(features)[:, :, :frames])
        past = activate(self.mix_past(torch.cat([past, mel_features], dim=1))[:, :, :frames])
        past = activate(self.mix_bins(past) + past)
        return self.variance(past)[:, 0].float()

    def _gain_correction(self, features: Tensor, mel_features: Tensor) -> Tensor:
        """Correction (batch, frames, bins) of the Wiener gain's logit, from all neighbours."""
        hidden = activate(self.read_all(features))
        hidden = activate(self.mix_all(torch.cat([hidden, mel_features], dim=1)))
        return self.gain(hidden)[:, 0].float()


def _coefficient_features(estimate: Tensor, gain: Tensor) -> Tensor:
    """Inputs (batch, 4, frames, bins) of the networks: energy, reliability, energy of the past, and value."""
    energy = estimate.square()
    features = [torch.log1p(20 * energy) / 2, gain, torch.log1p(20 * past_energy(energy)) / 2]
    features.append(estimate.clamp(-6, 6) / 3)
    return torch.stack(features, dim=3).permute(0, 3, 1, 2)  # channels last in memory


def past_energy(energy: Tensor) -> Tensor:
    """Mean of energies (batch, frames, bins) over the last `MEMORY` frames, weighted by 1, 0.85, 0.85^2 ..."""
    total, length = energy, 1
    while length < MEMORY:  # each pass doubles the number of frames in the sum
        total = total + FORGETTING**length * pad(total, (0, 0, length, 0))[:, : energy.shape[1]]
        length *= 2
    frames = torch.arange(1, energy.shape[1] + 1, device=energy.device).clamp(max=MEMORY)
    return total * ((1 - FORGETTING) / (1 - FORGETTING**frames))[:, None]


# --- both latents ---


@dataclass(frozen=True)
class StemOutput:
    """Output of `StemVAE`. A latent frame is 4 mel hops long, an MDCT frame `bins` samples."""

    mel_divergence: Tensor  # KL of z_mel, nats: (batch, latent frames)
    fine_divergence: Tensor  # KL of z_fine, nats: (batch, frames)
    distortion: Tensor  # squared error of the coefficients over the water level D: (batch, frames)
    log_mel: Tensor  # of the input, dB: (batch, mel frames, bands)
    decoded_mel: Tensor  # decoded from z_mel, dB: (batch, mel frames, bands)
    coefficients: Tensor  # decoded MDCT: (batch, frames, bins)
    missing: Tensor  # variance that they lack: (batch, frames, bins)


class StemVAE(nn.Module):
    """Both latents of a stem's waveform. The MDCT's frame length depends on the stem, so each stem has a `FineVAE`.

    waveform ─┬─► log-mel ─► MelVAE.encode ─► z_mel ─► MelVAE.decode ─► decoded mel
              │                  ▲              │                           │
              │           water level D         └─► CausalPrior ─► rate     ▼
              │                  │                               predicted ln variance
              │                  ▼                                          │  - ln D
              └─► MDCT ─► / sqrt(D) ─► FineVAE ◄────────────────────────────┘
                                          ├─► rate of z_fine
                                          └─► decoded coefficients ─► x sqrt(D) ─► inverse MDCT ─► waveform
    """

    def __init__(self, config: AudioConfig):
        super().__init__()
        self.config = config
        self.spectrogram = MelSpectrogram.from_config(config)
        self.mel = MelVAE(config)
        self.fine = nn.ModuleList(FineVAE(bins, config.fine_channels, config.sample_rate) for bins in config.mdct_bins)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """The log-mel spectrogram (batch, frames, bands) in dB that `z_mel` codes, of waveforms (batch, samples)."""
        return self.spectrogram.log_mel(waveform).clamp(min=MEL_RANGE_DB[0])

    def latent_shapes(self, batch: int, samples: int, stem_index: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of `z_mel` (batch, latent frames, latent_dim) and `z_fine` (batch, MDCT frames, bins) of waveforms
        (batch, samples)."""
        bins = self.config.mdct_bins[stem_index]
        latent_frames = math.ceil(self.spectrogram.frames(samples) / STRIDE)
        return (batch, latent_frames, self.config.latent_dim), (batch, math.ceil(samples / bins) + 1, bins)

    def forward(
        self,
        waveform: Tensor,
        log_mel: Tensor,
        stem_index: int,
        level: Tensor,
        noise: tuple[Tensor, Tensor] | None = None,
    ) -> StemOutput:
        """Encode waveforms (batch, samples) of one stem at water levels ln D (batch,), sample both latents, decode.

        `log_mel`: `self.log_mel(waveform)`. `noise`: standard normal, of the shapes of `z_mel` and of the MDCT; None
        draws it.
        """
        bins = self.config.mdct_bins[stem_index]
        coefficients = mdct(waveform, bins)
        stem = one_hot_stem(STEMS[stem_index], len(waveform)).to(waveform)

        # z_mel: posterior, sample, rate, decoded spectrogram.
        posterior = self.mel.encode(log_mel, stem, level / LOG_POWER_PER_DB)
        mel_noise, fine_noise = noise or (torch.randn_like(posterior.mean), torch.randn_like(coefficients))
        latent = posterior.sample(mel_noise)
        mel_divergence = posterior.divergence(self.mel.prior(latent, stem)).sum(dim=2)
        decoded_mel = self.mel.decode(latent, stem, log_mel.shape[1])

        # z_fine: coefficients and predicted variances in units of the water level.
        log_level = level[:, None, None]
        predicted = predicted_log_variance(decoded_mel, bins, coefficients.shape[1], self.spectrogram)
        log_variance = predicted - log_level
        scaled = coefficients * (-log_level / 2).exp()
        fine = self._code_fine(stem_index, scaled, log_variance, fine_noise)
        return StemOutput(
            mel_divergence,
            fine.divergence.sum(dim=2),
            (scaled - fine.decoded).square().sum(dim=2),
            log_mel,
            decoded_mel,
            fine.decoded * (log_level / 2).exp(),
            fine.missing * log_level.exp(),
        )

    def _code_fine(self, stem_index: int, scaled: Tensor, log_variance: Tensor, noise: Tensor) -> FineOutput:
        """`FineVAE` of the stem, applied only up to the highest bin that it can code, plus its receptive field.

        The divergence, zero above, is returned up to there.
        """
        bins = scaled.shape[2]
        coded = (log_variance > NEGLIGIBLE).any(dim=1).any(dim=0).nonzero()
        highest = min(bins, int(coded.max()) + 1 + FineVAE.REACH_BINS) if len(coded) else 1
        below = slice(0, highest)
        fine = self.fine[stem_index](scaled[..., below], log_variance[..., below], noise[..., below])
        return FineOutput(
            fine.divergence,
            pad(fine.decoded, (0, bins - highest)),
            torch.cat([fine.missing, log_variance[..., highest:].exp()], dim=2),
        )


def closed_form(model: StemVAE) -> StemVAE:
    """A copy with the same `z_mel`, whose `z_fine` is plain reverse water-filling: nothing learned in it."""
    copy = deepcopy(model)
    for fine in copy.fine:
        fine.zero_heads()
    return copy


def load_model(path: Path | None = None) -> StemVAE:
    """A stem VAE in evaluation mode, on this process's device.

    `path` is published weights (.safetensors) or a training state (.pt), of which the averaged model is taken; None is
    the published model.

    Raises:
        CheckpointError: the file is missing, damaged or holds no stem VAE of this project.
    """
    runtime.keep_freed_memory()
    model = checkpoints.load_network(Path(path or paths.AUDIO.weights), AudioConfig, StemVAE, "stem VAE")
    return model.to(runtime.device(), memory_format=torch.channels_last)
