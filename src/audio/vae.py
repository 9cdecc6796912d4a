"""The two-latent VAE: `z_mel`, what a stem sounds like, and `z_fine`, the waveform's fine structure given that.

`MelVAE` is a convolutional VAE of the log-mel spectrogram. Its decoded spectrogram predicts the variance of every MDCT
coefficient, and `FineVAE` describes the coefficients themselves, each with as much precision as the water level D asks
for: the noisier the posterior, the fewer bits it carries. Together they are a scale hyperprior (Balle et al. 2018,
https://arxiv.org/abs/1802.01436) with a context model (Minnen et al. 2018, https://arxiv.org/abs/1809.02736): the prior
of a frame of `z_fine` reads the frames already decoded.

It is trained on the negative ELBO in nats, KL(z_mel) + KL(z_fine) + distortion / (2 D), with D drawn at random for each
example, so that one model serves every point of the rate-distortion curve (`training.objective` adds a weak term).

The networks are convolutional, so that a frame depends on a bounded stretch of sound around it: a long file can be
coded piece by piece.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad, silu, softplus

from src import runtime
from src.audio import spectrogram
from src.audio.data import STEMS
from src.config import AudioConfig

NEPERS_PER_DB = math.log(10) / 10  # of power
NATS_PER_KBIT = 1000 * math.log(2)
SILENT_DB, LOUD_DB = -80.0, 20.0  # range of the spectrograms that the networks see
STRIDE = 4  # mel frames per frame of z_mel
MEMORY = 32  # frames whose energy the context model averages: a power of 2
FORGETTING = 0.85  # weight of a frame in it beside the next one's
activate = partial(silu, inplace=True)  # on maps of every coefficient: memory is what they are short of
AUDIBLE = -3.0  # ln(P / D) below which a coefficient carries nothing


@dataclass(frozen=True)
class Gaussian:
    """Independent normal distributions of one shape."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Reparameterised: `noise` is standard normal, or zero for the mean."""
        return self.mean + noise * (self.log_variance / 2).exp()

    def divergence(self, prior: "Gaussian") -> Tensor:
        """KL(self || prior) in nats, element by element."""
        ratio = self.log_variance - prior.log_variance
        distance = (self.mean - prior.mean).square() * (-prior.log_variance).exp()
        return (ratio.exp() + distance - 1 - ratio) / 2


class MelVAE(nn.Module):
    """Log-mel spectrogram (batch, frames, bands) in dB <-> latent (batch, ceil(frames / 4), latent_dim).

    Encoder and decoder are convolutional in time and frequency and know the stem, given as weights (batch, 4) of
    `STEMS` that sum to 1. The prior of each latent frame is a normal distribution that a causal convolutional network
    predicts from the frames before.

    Both start from a two-dimensional cosine transform of 4 frames, of which the latent holds the `latent_dim` broadest
    patterns, and learn what to add to it: from nothing, the networks take hours to send as much.
    """

    def __init__(self, config: AudioConfig):
        super().__init__()
        self.register_buffer("patterns", cosine_patterns(config.mel_bands, config.latent_dim), persistent=False)
        width, hidden, latent = config.mel_channels, config.mel_hidden, config.latent_dim
        self.shape = (3 * width, config.mel_bands // 8)
        flat = math.prod(self.shape)
        self.stem = nn.Linear(len(STEMS), hidden, bias=False)
        self.level = nn.Linear(1, hidden)
        self.look = nn.Sequential(
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
        self.draw = nn.Sequential(
            *(nn.SiLU(inplace=True), nn.ConvTranspose2d(3 * width, 2 * width, 4, stride=2, padding=1)),
            *(nn.SiLU(inplace=True), nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1)),
            *(nn.SiLU(inplace=True), nn.ConvTranspose2d(width, width, (3, 4), stride=(1, 2), padding=1)),
            *(nn.SiLU(inplace=True), nn.Conv2d(width, 1, 3, padding=1)),
        )
        self.prior = CausalPrior(latent, hidden)
        for last in (self.encode_out, self.draw[-1]):  # begins as the cosine transform
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def encode(self, log_mel: Tensor, stem: Tensor, level_db: Tensor) -> Gaussian:
        """Posterior of the latent. `level_db` (batch,) is the water level, below which detail is not worth its rate."""
        frames = log_mel.shape[1]
        pictures = pad(_normalised(log_mel).transpose(1, 2), (0, -frames % STRIDE), mode="replicate").transpose(1, 2)
        with precision(self, log_mel.device):
            seen = self.look(pictures.unsqueeze(1)).transpose(2, 3).flatten(1, 2)
            condition = self.stem(stem) + self.level(_normalised(level_db)[:, None])
            hidden = silu(self.encode_in(seen) + condition[..., None])
            hidden = silu(self.encode_mid(hidden) + hidden)
            mean, log_variance = self.encode_out(hidden).float().transpose(1, 2).chunk(2, dim=2)
        return Gaussian(
            pictures.unflatten(1, (-1, STRIDE)).flatten(2) @ self.patterns + mean, (log_variance - 2).clamp(-12, 4)
        )

    def decode(self, latent: Tensor, stem: Tensor, frames: int) -> Tensor:
        """Log-mel spectrogram (batch, frames, bands) in dB; frames <= 4 x latent frames."""
        with precision(self, latent.device):
            hidden = silu(self.decode_in(latent.transpose(1, 2)) + self.stem(stem)[..., None])
            hidden = silu(self.decode_mid(hidden) + hidden)
            pictures = self.draw(self.decode_out(hidden).unflatten(1, self.shape).transpose(2, 3))
        linear = (latent @ self.patterns.T).unflatten(2, (STRIDE, -1)).flatten(1, 2)
        decibels = (linear + pictures[:, 0].float())[:, :frames] * 25 - 50
        return decibels.clamp(SILENT_DB - 15, LOUD_DB)


def cosine_patterns(bands: int, count: int) -> Tensor:
    """Orthonormal columns (4 bands, count): products of cosines over time and frequency, the `count` broadest, where
    detail in time ranks below detail in frequency as it does in spectrograms of music."""
    columns = []
    for length in (STRIDE, bands):
        orders, places = torch.arange(length)[:, None], torch.arange(length) + 0.5
        cosines = torch.cos(math.pi / length * orders * places) * math.sqrt(2 / length)
        cosines[0] /= math.sqrt(2)
        columns.append(cosines)
    products = torch.einsum("at,bk->abtk", *columns).reshape(STRIDE * bands, STRIDE * bands)
    fineness = torch.arange(1, STRIDE + 1)[:, None] ** 2 * torch.arange(1, bands + 1)
    return products[fineness.flatten().argsort(stable=True)[:count]].T


def precision(module: nn.Module, where: torch.device) -> AbstractContextManager:
    """Mixed precision while training; float32, the same on every machine, when the model is used."""
    return runtime.autocast(where) if module.training else nullcontext()


def _normalised(decibels: Tensor) -> Tensor:
    return (decibels.clamp(SILENT_DB, LOUD_DB) + 50) / 25


class CausalPrior(nn.Module):
    """Latents (batch, frames, latent_dim) -> the prior of each frame, given those before it and the stem."""

    DILATIONS = (1, 2, 4, 8)
    REACH = 2 + sum(DILATIONS)  # frames that the prior of the next one depends on

    def __init__(self, latent: int, hidden: int):
        super().__init__()
        self.stem = nn.Linear(len(STEMS), hidden, bias=False)
        self.read = nn.Conv1d(latent, hidden, 2)
        self.blocks = nn.ModuleList(nn.Conv1d(hidden, hidden, 2, dilation=dilation) for dilation in self.DILATIONS)
        self.out = nn.Conv1d(hidden, 2 * latent, 1)
        self.carry = nn.Parameter(torch.full((latent,), 0.7))
        nn.init.zeros_(self.out.weight)  # begins as an autoregressive process of order 1
        nn.init.zeros_(self.out.bias)

    def forward(self, latent: Tensor, stem: Tensor) -> Gaussian:
        with precision(self, latent.device):
            hidden = self.read(pad(latent.transpose(1, 2), (2, -1))) + self.stem(stem)[..., None]
            for block, dilation in zip(self.blocks, self.DILATIONS, strict=True):
                hidden = hidden + silu(block(pad(silu(hidden), (dilation, 0))))
            mean, log_variance = self.out(silu(hidden)).float().transpose(1, 2).chunk(2, dim=2)
        return Gaussian(mean + self.carry * pad(latent, (0, 0, 1, -1)), log_variance.clamp(-8, 4))


@dataclass(frozen=True)
class Fine:
    """What `FineVAE` says of MDCT coefficients (batch, frames, bins), in units of the water level's square root."""

    divergence: Tensor  # KL of the posterior from the prior, nats
    decoded: Tensor  # the estimate of least distortion
    missing: Tensor  # variance that the estimate lacks


class FineVAE(nn.Module):
    """MDCT coefficients given the variances that the decoded mel spectrogram predicts for them.

    With x the coefficient, P its predicted variance, both over the water level D, the posterior is N(x, N), where the
    noise N depends on the decoded mel alone. It starts from reverse water-filling, N = P / (P - 1), infinite for P < 1
    (Cover and Thomas, Elements of Information Theory, 10.3.3). The prior N(0, P' + N) takes its P' from the mel and
    from the noisy coefficients of the frames before; the decoder scales each noisy coefficient by a Wiener gain that
    it reads from all of its neighbours. Coefficients with ln(P / D) below `AUDIBLE` are left out: rate 0, estimate 0.
    """

    REACH_BINS = 10  # at most, across the convolutions below

    def __init__(self, bins: int, channels: int, sample_rate: int):
        super().__init__()
        frequencies = (torch.arange(bins) + 0.5) / bins * sample_rate / 2
        octaves = torch.log2(frequencies / 440)
        position = torch.stack([octaves / 4, torch.cos(octaves), torch.sin(octaves)])
        self.register_buffer("position", position, persistent=False)
        self.read_mel = nn.Conv2d(4, channels, (3, 5), padding=(1, 2))
        self.mix_mel = nn.Conv2d(channels, channels, 1)
        self.noise = nn.Conv2d(channels, 1, (1, 3), padding=(0, 1))
        # Padded on both sides, of which `forward` drops the later one: what sees the past alone.
        self.read_past = nn.Conv2d(4, channels, (4, 9), padding=(4, 4))
        self.mix_past = nn.Conv2d(2 * channels, channels, (2, 3), padding=(1, 1))
        self.mix_bins = nn.Conv2d(channels, channels, (1, 5), padding=(0, 2))
        self.variance = nn.Conv2d(channels, 1, 1)
        self.read_all = nn.Conv2d(4, channels, (5, 9), padding=(2, 4))
        self.mix_all = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.gain = nn.Conv2d(channels, 1, 1)
        for head in (self.noise, self.variance, self.gain):  # begins as the closed form
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, coefficients: Tensor, log_variance: Tensor, noise: Tensor) -> Fine:
        """Of shape (batch, frames, bins): coefficients over sqrt(D), ln(P / D), and standard normal noise."""
        active = (log_variance > AUDIBLE).float()
        hidden, correction = self._read_mel(log_variance)
        log_noise = water_filling(log_variance, correction)
        noisy = coefficients + noise * (log_noise / 2).exp()
        guess = torch.sigmoid(log_variance - log_noise) * active
        features = _features(guess * noisy, guess)
        with precision(self, coefficients.device):
            past = activate(self.read_past(features)[:, :, : features.shape[2]])
            past = activate(self.mix_past(torch.cat([past, hidden], dim=1))[:, :, : features.shape[2]])
            past = activate(self.mix_bins(past) + past)
            refinement = self.variance(past)[:, 0].float()
            heard = activate(self.read_all(features))
            heard = activate(self.mix_all(torch.cat([heard, hidden], dim=1)))
            improvement = self.gain(heard)[:, 0].float()
        refined = (log_variance + refinement).clamp(-20, 20)
        prior = Gaussian(torch.zeros_like(noisy), torch.logaddexp(refined, log_noise))
        gain = torch.sigmoid(log_variance - log_noise + improvement)
        divergence = Gaussian(coefficients, log_noise).divergence(prior) * active
        return Fine(
            divergence, gain * noisy * active, torch.where(active > 0, gain * log_noise.exp(), log_variance.exp())
        )

    def _read_mel(self, log_variance: Tensor) -> tuple[Tensor, Tensor]:
        """Features (batch, channels, frames, bins) of the mel, and what they add to the logarithm of the noise."""
        batch, frames, bins = log_variance.shape
        position = self.position[:, None, :bins].expand(batch, -1, frames, -1)
        features = torch.cat([(log_variance / 4).clamp(-3, 4)[:, None], position], dim=1)
        features = features.contiguous(memory_format=torch.channels_last)  # of which the CPU's convolutions are faster
        with precision(self, log_variance.device):
            hidden = activate(self.read_mel(features))
            hidden = activate(self.mix_mel(hidden) + hidden)
            return hidden, self.noise(hidden)[:, 0].float()


def water_filling(log_variance: Tensor, correction: Tensor | float = 0.0) -> Tensor:
    """ln of the posterior's noise variance over D, for ln(P / D): reverse water-filling, ln(P / (P - D)), with a smooth
    way to infinity where P falls below D, shifted by `correction`."""
    excess = softplus(2 * (log_variance.clamp(max=30).exp() - 1)) / 2
    return softplus(correction - torch.log(excess + 1e-6)).clamp(max=14)


def _features(guess: Tensor, gain: Tensor) -> Tensor:
    """What the networks see of the noisy coefficients: energy, reliability, energy of the past, and value."""
    energy = guess.square()
    seen = [torch.log1p(20 * energy) / 2, gain, torch.log1p(20 * past_energy(energy)) / 2, guess.clamp(-6, 6) / 3]
    return torch.stack(seen, dim=3).permute(0, 3, 1, 2)  # channels last in memory


def past_energy(energy: Tensor) -> Tensor:
    """Mean of energies (batch, frames, bins) over the last `MEMORY` frames, weighted 1, 0.85, 0.85^2 ..."""
    total, length = energy, 1
    while length < MEMORY:  # the sum over twice as many frames
        total = total + FORGETTING**length * pad(total, (0, 0, length, 0))[:, : energy.shape[1]]
        length *= 2
    frames = torch.arange(1, energy.shape[1] + 1, device=energy.device).clamp(max=MEMORY)
    return total * ((1 - FORGETTING) / (1 - FORGETTING**frames))[:, None]


def predicted_log_variance(log_mel: Tensor, bins: int, frames: int, config: AudioConfig) -> Tensor:
    """ln of the variance that a log-mel spectrogram (batch, mel frames, bands) in dB predicts for MDCT coefficients
    (batch, frames, bins): power averaged over the frame's window, interpolated between the bands' centres."""
    mel_times = torch.arange(log_mel.shape[1], device=log_mel.device) * config.mel_hop
    times = torch.arange(frames, device=log_mel.device)[:, None] * bins
    times = times.clamp(max=mel_times[-1])  # the last frame may lie beyond the last of the mel
    reach = max(bins, config.mel_hop)
    weights = torch.cos(math.pi / 2 * ((mel_times - times) / reach).clamp(-1, 1)).square()
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-9)
    power = torch.einsum("fm,bmk->bfk", weights, (log_mel * NEPERS_PER_DB).exp())
    logs = torch.log(power.clamp(min=spectrogram.FLOOR))

    filters = spectrogram.mel_filters(config.sample_rate, config.mel_bands, config.mel_window).to(log_mel)
    centres = torch.linspace(0, 1, len(filters), device=log_mel.device) @ filters
    wanted = (torch.arange(bins, device=log_mel.device) + 0.5) / bins
    right = torch.searchsorted(centres.contiguous(), wanted).clamp(1, len(centres) - 1)
    share = ((wanted - centres[right - 1]) / (centres[right] - centres[right - 1])).clamp(0, 1)
    return torch.lerp(logs[..., right - 1], logs[..., right], share)


def water_level(log_mel: Tensor, sdr_db: Tensor, config: AudioConfig) -> Tensor:
    """ln D (batch,) at which reverse water-filling of a log-mel spectrogram (batch, frames, bands) in dB, over time and
    frequency in Hz, leaves a distortion `sdr_db` (batch,) below its power; at least that of `SILENT_DB`."""
    power = (log_mel * NEPERS_PER_DB).exp()
    widths = spectrogram.mel_bandwidths(config.sample_rate, config.mel_bands, config.mel_window).to(log_mel)
    allowed = (power @ widths).sum(dim=1) * (-sdr_db * NEPERS_PER_DB).exp()
    low, high = torch.full_like(allowed, SILENT_DB * NEPERS_PER_DB), power.amax(dim=(1, 2)).log()
    for _ in range(40):
        middle = (low + high) / 2
        above = (torch.minimum(power, middle.exp()[:, None, None]) @ widths).sum(dim=1) > allowed
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2


@dataclass(frozen=True)
class Coded:
    """What the VAE makes of a batch of waveforms. Latent frames are 4 mel hops long, frames `bins` samples."""

    mel_divergence: Tensor  # KL of z_mel, nats: (batch, latent frames)
    fine_divergence: Tensor  # KL of z_fine, nats: (batch, frames)
    distortion: Tensor  # squared error of coefficients over the water level D: (batch, frames)
    log_mel: Tensor  # of the input, dB: (batch, mel frames, bands)
    decoded_mel: Tensor  # from z_mel, dB
    coefficients: Tensor  # decoded MDCT: (batch, frames, bins)
    missing: Tensor  # variance that they lack: (batch, frames, bins)


def missing_variance(coded: Coded, config: AudioConfig) -> Tensor:
    """Variance of the noise that makes up for what `coded.coefficients` lack, in an MDCT of frames as short as the
    mel's hop: (batch, ceil(samples / mel_hop) + 1, mel_hop), where samples fill all frames of `coded` but one.

    What is missing of the power that the decoded mel predicts, at most all, is the share of the long frame around; the
    power itself is that of the short frame. Noise in long frames would sound before an onset as much as after it.
    """
    long_frames, bins = coded.missing.shape[1:]
    hop = config.mel_hop
    frames = (long_frames - 1) * bins // hop + 1
    missing = coded.missing / predicted_log_variance(coded.decoded_mel, bins, long_frames, config).exp()
    around = (torch.arange(frames, device=missing.device) * hop + bins // 2) // bins
    share = missing.clamp(max=1).unflatten(2, (hop, -1)).mean(dim=3)[:, around]
    return share * predicted_log_variance(coded.decoded_mel, hop, frames, config).exp()


class StemVAE(nn.Module):
    """Both latents of one stem's waveform. The MDCT's frame length goes with the stem, and so does its `FineVAE`."""

    def __init__(self, config: AudioConfig):
        super().__init__()
        self.config = config
        self.mel = MelVAE(config)
        self.fine = nn.ModuleList(FineVAE(bins, config.fine_channels, config.sample_rate) for bins in config.mdct_bins)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """The spectrogram that `z_mel` describes, (batch, frames, bands) in dB, of waveforms (batch, samples)."""
        config = self.config
        mel = spectrogram.log_mel(waveform, config.sample_rate, config.mel_bands, config.mel_window, config.mel_hop)
        return mel.clamp(min=SILENT_DB)

    def forward(self, waveform: Tensor, stem: int, level: Tensor, noise: tuple[Tensor, Tensor] | None = None) -> Coded:
        """Encode waveforms (batch, samples) of one stem at water levels ln D (batch,), sample both latents, decode.

        `noise`: standard normal, of the shapes of `z_mel` and of the MDCT; drawn where it is not given.
        """
        bins = self.config.mdct_bins[stem]
        coefficients = spectrogram.mdct(waveform, bins)
        mel = self.log_mel(waveform)
        stems = one_hot(torch.tensor([stem] * len(waveform), device=waveform.device), len(STEMS)).float()
        posterior = self.mel.encode(mel, stems, level / NEPERS_PER_DB)
        mel_noise, fine_noise = noise or (torch.randn_like(posterior.mean), torch.randn_like(coefficients))
        latent = posterior.sample(mel_noise)
        mel_divergence = posterior.divergence(self.mel.prior(latent, stems)).sum(dim=2)
        decoded_mel = self.mel.decode(latent, stems, mel.shape[1])

        log_level = level[:, None, None]
        log_variance = predicted_log_variance(decoded_mel, bins, coefficients.shape[1], self.config) - log_level
        scaled = coefficients * (-log_level / 2).exp()
        # Above the highest audible bin, and as far as a network reaches down from there, there is nothing to compute.
        audible = (log_variance > AUDIBLE).any(dim=1).any(dim=0).nonzero()
        highest = min(bins, int(audible.max()) + 1 + FineVAE.REACH_BINS) if len(audible) else 1
        shown = slice(0, highest)
        said = self.fine[stem](scaled[..., shown], log_variance[..., shown], fine_noise[..., shown])
        decoded = pad(said.decoded, (0, bins - highest))
        return Coded(
            mel_divergence,
            said.divergence.sum(dim=2),
            (scaled - decoded).square().sum(dim=2),
            mel,
            decoded_mel,
            decoded * (log_level / 2).exp(),
            torch.cat([said.missing, log_variance[..., highest:].exp()], dim=2) * log_level.exp(),
        )
