"""A generative model of stems: flow matching in a compact latent of the log-mel spectrogram.

Flow matching (Lipman et al. 2023, https://arxiv.org/abs/2210.02747) has three parts:

- the *path* from noise to data, a straight line that time runs along from 0 to 1 (`path_point`, `path_velocity`);
- the *network*, which estimates the velocity of the points that pass a place at a time (`VelocityNetwork`);
- the *solver*, which follows that velocity from noise to a sample (`solve`).

The latent is the two-dimensional cosine transform of 4 mel frames, of which the broadest patterns are kept. It has no
learned weights. The coefficients of the patterns that are left out are drawn at random at decoding: Gaussians around
an estimate from the latent and its neighbours, by ridge regression on the training tracks.

The network receives the stem and the *style* of the clip: means and standard deviations of the broadest coefficients
over the whole clip, that is, its level, its timbre and how much they change (`StemFlow.style`). A new clip's style is
that of a training window, mixed with noise and pulled towards the mean; all its frames share it.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import glu, one_hot, pad, silu

from src import checkpoints, paths, runtime
from src.audio.spectrogram import MelSpectrogram
from src.audio.vae import STRIDE, autocast_if_training, cosine_patterns, denormalise, normalise
from src.config import STEMS, STYLE_SMOOTHING, STYLE_SPREAD, FlowConfig

DILATIONS = (1, 2, 4, 8)  # of the blocks, in turn, in latent frames
STYLES = 128  # training windows of each stem whose styles are kept
LEAST_DEVIATION = 0.05  # to which the standard deviations of a style are clamped
TAPS = 3  # latent frames that a dilated convolution combines
TIME_FREQUENCIES = 32  # sines and cosines of the time that the network receives
NEIGHBOURS = 1  # latent frames on each side from which the coefficients that are left out are estimated
EDGE = 2  # mel frames at each end of a part of a recording that its ends darken; the model leaves them out
FLOOR_DB = -95.0  # least value of a decoded log-mel spectrogram

Velocity = Callable[[Tensor, float], Tensor]  # (points, time) -> velocities of the points' shape


# --- path ---


def path_point(noise: Tensor, data: Tensor, time: Tensor) -> Tensor:
    """The point x_t = (1 - t) noise + t data of the straight path, (batch, ...), at the times (batch,)."""
    time = time.reshape(-1, *[1] * (data.dim() - 1))
    return (1 - time) * noise + time * data


def path_velocity(noise: Tensor, data: Tensor) -> Tensor:
    """The velocity dx_t / dt = data - noise of the straight path, the same at every time."""
    return data - noise


def mix_noise(own: Tensor, common: Tensor, share: float) -> Tensor:
    """Standard normal noise (batch, frames, ...) whose frames have a part in common: `share` of the variance is that of
    `common` (batch, 1, ...), the rest that of `own` (batch, frames, ...).

    A clip's level and timbre hardly change from frame to frame. With independent noise they are settled near time 0,
    and frames far apart settle on different ones.
    """
    return (1 - share) ** 0.5 * own + share**0.5 * common


# --- network ---


class Modulation(nn.Module):
    """Layer normalisation, then a scale and a shift of each channel that depend on the condition (FiLM, Perez et al.
    2018): (batch, frames, width) and (batch, width) -> (batch, frames, width)."""

    def __init__(self, width: int):
        super().__init__()
        self.normalise = nn.LayerNorm(width, elementwise_affine=False)
        self.condition = nn.Linear(width, 2 * width)
        nn.init.zeros_(self.condition.weight)  # starts as the plain normalisation
        nn.init.zeros_(self.condition.bias)

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        """The normalised and modulated features."""
        scale, shift = self.condition(condition)[:, None].chunk(2, dim=2)
        return self.normalise(hidden) * (1 + scale) + shift


class Block(nn.Module):
    """A residual block: modulation, a dilated convolution in time with a gated linear unit, a pointwise layer."""

    def __init__(self, width: int, dilation: int, dropout: float):
        super().__init__()
        self.dilation = dilation
        self.modulate = Modulation(width)
        self.convolve = nn.Linear(TAPS * width, 2 * width)  # on shifted copies: faster on a CPU than nn.Conv1d
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, width)
        nn.init.zeros_(self.output.weight)  # starts as the identity
        nn.init.zeros_(self.output.bias)

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        """Features (batch, frames, width) of that shape, given the condition (batch, width)."""
        features = silu(self.modulate(hidden, condition))
        frames, reach = hidden.shape[1], self.dilation * (TAPS // 2)
        padded = pad(features, (0, 0, reach, reach))
        shifted = [padded[:, tap * self.dilation : tap * self.dilation + frames] for tap in range(TAPS)]
        return hidden + self.output(self.dropout(glu(self.convolve(torch.cat(shifted, dim=2)), dim=2)))


class VelocityNetwork(nn.Module):
    """The velocity of points of the path, given time, stem, style, and the frames that are already known.

    Convolutional in time, so it serves sound of any length. Without a condition (all numbers 0) it estimates the
    velocity for any stem and style, which classifier-free guidance needs.
    """

    def __init__(self, config: FlowConfig):
        super().__init__()
        width = config.width
        self.read = nn.Linear(2 * config.latent_dim + 1, width)
        self.condition = nn.Linear(len(STEMS) + config.style_dim, width)
        self.time = nn.Sequential(nn.Linear(2 * TIME_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(
            Block(width, DILATIONS[number % len(DILATIONS)], config.dropout) for number in range(config.blocks)
        )
        self.modulate = Modulation(width)
        self.write = nn.Linear(width, config.latent_dim)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)

    def forward(self, points: Tensor, time: Tensor, condition: Tensor, known: Tensor, is_known: Tensor) -> Tensor:
        """Velocities (batch, frames, latent_dim) of points of that shape at the times (batch,), 0 to 1.

        `condition`: (batch, 4 + style_dim), as `StemFlow.condition` gives it, or zeros. `known`: data (batch, frames,
        latent_dim) in the frames where `is_known` (batch, frames, 1) is 1; the network continues them. Where it is 0,
        `known` is not read.
        """
        with autocast_if_training(self, points.device):
            condition = silu(self.time(_waves(time)) + self.condition(condition))
            hidden = self.read(torch.cat([points, known * is_known, is_known], dim=2))
            for block in self.blocks:
                hidden = block(hidden, condition)
            return self.write(self.modulate(hidden, condition)).float()


def _waves(time: Tensor) -> Tensor:
    """Sines and cosines (batch, 2 TIME_FREQUENCIES) of times (batch,), at frequencies of 1 to 1000 in octave parts."""
    frequencies = 2 ** torch.linspace(0, 10, TIME_FREQUENCIES, device=time.device)
    angles = time[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


# --- solver ---


def solve(velocity: Velocity, points: Tensor, steps: int, begin: float = 0.0) -> Tensor:
    """Follow `velocity` from `points` at time `begin` to time 1 in `steps` equal steps of the midpoint method.

    Exact if the velocity depends on time alone, linearly; of second order otherwise. Two evaluations a step.

    Raises:
        ValueError: fewer than 1 step.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}: a solver takes at least 1")
    length = (1 - begin) / steps
    for step in range(steps):
        time = begin + step * length
        middle = points + length / 2 * velocity(points, time)
        points = points + length * velocity(middle, time + length / 2)
    return points


# --- the model ---


class StemFlow(nn.Module):
    """The latent and the network of one model. The statistics of the latent come from the training tracks."""

    def __init__(self, config: FlowConfig):
        super().__init__()
        self.config = config
        self.spectrogram = MelSpectrogram.from_config(config)
        patterns = cosine_patterns(config.mel_bands, STRIDE * config.mel_bands)
        self.register_buffer("kept", patterns[:, : config.latent_dim].contiguous(), persistent=False)
        self.register_buffer("left_out", patterns[:, config.latent_dim :].contiguous(), persistent=False)
        rest = STRIDE * config.mel_bands - config.latent_dim
        self.register_buffer("mean", torch.zeros(config.latent_dim))
        self.register_buffer("deviation", torch.ones(config.latent_dim))
        # The estimate of what is left out, for each stem: its value at latent 0, its weights, and the deviation from it
        # in the training tracks.
        self.register_buffer("rest_intercept", torch.zeros(len(STEMS), rest))
        self.register_buffer("rest_weights", torch.zeros(len(STEMS), (1 + 2 * NEIGHBOURS) * config.latent_dim, rest))
        self.register_buffer("rest_deviation", torch.ones(len(STEMS), rest))
        self.register_buffer("style_mean", torch.zeros(config.style_dim))
        self.register_buffer("style_deviation", torch.ones(config.style_dim))
        self.register_buffer("styles", torch.zeros(len(STEMS), STYLES, config.style_dim))  # of training windows
        self.network = VelocityNetwork(config)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """The log-mel spectrogram (batch, frames, bands) in dB of waveforms (batch, samples)."""
        return self.spectrogram.log_mel(waveform)

    def latent_frames(self, samples: int) -> int:
        """Number of latent frames of a waveform of `samples` samples."""
        return math.ceil(self.spectrogram.frames(samples) / STRIDE)

    def encode(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised latent (batch, ceil(frames / 4), latent_dim) of a log-mel spectrogram (batch, frames, bands) in
        dB, and the coefficients that it leaves out (batch, ceil(frames / 4), 4 bands - latent_dim)."""
        frames = log_mel.shape[1]
        normalised = pad(normalise(log_mel).transpose(1, 2), (0, -frames % STRIDE), mode="replicate").transpose(1, 2)
        groups = normalised.unflatten(1, (-1, STRIDE)).flatten(2)
        return (groups @ self.kept - self.mean) / self.deviation, groups @ self.left_out

    def decode(self, latent: Tensor, rest: Tensor, frames: int) -> Tensor:
        """Log-mel spectrogram (batch, frames, bands) in dB of a latent and the coefficients that it leaves out."""
        groups = (latent * self.deviation + self.mean) @ self.kept.T + rest @ self.left_out.T
        log_mel = denormalise(groups.unflatten(2, (STRIDE, -1)).flatten(1, 2)[:, :frames])
        return log_mel.clamp(min=FLOOR_DB)

    def style(self, latent: Tensor) -> Tensor:
        """The style (batch, style_dim) of latents (batch, frames, latent_dim): over the frames, the means of the
        broadest `style_means` coefficients and the logarithms of the standard deviations of the broadest
        `style_deviations`, normalised over the training windows."""
        means = latent[..., : self.config.style_means].mean(dim=1)
        deviations = latent[..., : self.config.style_deviations].std(dim=1, correction=0)
        together = torch.cat([means, deviations.clamp(min=LEAST_DEVIATION).log()], dim=1)
        return (together - self.style_mean) / self.style_deviation

    def draw_style(self, stem_index: int, stream: torch.Generator) -> Tensor:
        """A style (1, style_dim) of a stem, from those of the training windows by the smoothed bootstrap (Silverman and
        Young 1987): one of them, mixed with Gaussian noise of their covariance, then pulled towards their mean."""
        styles = self.styles[stem_index]
        mean, centred = styles.mean(dim=0), styles - styles.mean(dim=0)
        row = int(torch.randint(len(styles), (1,), generator=stream))
        noise = torch.randn(1, len(styles), generator=stream).to(styles) @ centred / len(styles) ** 0.5
        return mean + STYLE_SPREAD * ((1 - STYLE_SMOOTHING**2) ** 0.5 * centred[row] + STYLE_SMOOTHING * noise)

    def expected_rest(self, stem_index: int, latent: Tensor) -> Tensor:
        """The coefficients (batch, frames, 4 bands - latent_dim) that latents (batch, frames, latent_dim) leave out, as
        the stem's ridge-regression estimate from each latent frame and its neighbours."""
        return self.rest_intercept[stem_index] + with_neighbours(latent) @ self.rest_weights[stem_index]

    def draw_rest(self, stem_index: int, latent: Tensor, noise: Tensor) -> Tensor:
        """Coefficients that latents leave out: `expected_rest` plus independent Gaussians, standard normal `noise`
        (batch, frames, 4 bands - latent_dim) times the stem's deviations."""
        return self.expected_rest(stem_index, latent) + self.rest_deviation[stem_index] * noise

    def condition(self, stem_indices: Tensor, style: Tensor) -> Tensor:
        """The network's condition (batch, 4 + style_dim): stem indices (batch,), one-hot, and styles (batch,
        style_dim)."""
        return torch.cat([one_hot(stem_indices, len(STEMS)).to(style), style], dim=1)

    def velocity(
        self,
        condition: Tensor,
        noise: Tensor,
        known: Tensor,
        is_known: Tensor,
        guidance: float,
        interval: tuple[float, float] = (0.0, 1.0),
    ) -> Velocity:
        """The network's velocity for `solve`, with classifier-free guidance (Ho and Salimans 2022): v + guidance (v -
        v without the condition), at the times of `interval` (Kynkaanniemi et al. 2024).

        `condition`, `known` and `is_known` as `VelocityNetwork.forward` takes them. The frames that are known move
        straight from `noise`, the points at time 0, to their data, as in training.
        """

        def guided(points: Tensor, time: float) -> Tensor:
            times = points.new_full((len(points),), time)
            estimate = self.network(points, times, condition, known, is_known)
            if guidance and interval[0] <= time <= interval[1]:
                free = self.network(points, times, torch.zeros_like(condition), known, is_known)
                estimate = estimate + guidance * (estimate - free)
            return torch.where(is_known > 0, path_velocity(noise, known), estimate)

        return guided


def with_neighbours(latent: Tensor) -> Tensor:
    """Each frame of latents (batch, frames, latent_dim) together with the `NEIGHBOURS` before and after it: (batch,
    frames, (1 + 2 NEIGHBOURS) latent_dim). The first and the last frame are repeated."""
    frames = latent.shape[1]
    padded = pad(latent.transpose(1, 2), (NEIGHBOURS, NEIGHBOURS), mode="replicate").transpose(1, 2)
    return torch.cat([padded[:, shift : shift + frames] for shift in range(1 + 2 * NEIGHBOURS)], dim=2)


def flow_loss(
    model: StemFlow, data: Tensor, condition: Tensor, is_known: Tensor, noise: Tensor, time: Tensor
) -> Tensor:
    """The flow-matching loss (batch,): mean squared error of the velocity in the frames that are not known (Lipman et
    al. 2023, equation 9, with a variance of 0 at time 1).

    `data`, `noise`: (batch, frames, latent_dim); `time`: (batch,); the rest as `VelocityNetwork.forward` takes it.
    """
    estimate = model.network(path_point(noise, data, time), time, condition, data, is_known)
    error = (estimate - path_velocity(noise, data)).square().mean(dim=2, keepdim=True)
    wanted = 1 - is_known
    return (error * wanted).sum(dim=(1, 2)) / wanted.sum(dim=(1, 2))


def load_flow(path: Path | str | None = None) -> StemFlow:
    """The flow in a file of weights or training state, or the published one, in evaluation mode, on this process's
    device. Raises CheckpointError."""
    return checkpoints.load_network(Path(path or paths.FLOW.weights), FlowConfig, StemFlow, "stem flow").to(
        runtime.device()
    )
