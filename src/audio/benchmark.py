"""Speed of reconstruction."""

import statistics
import time

import numpy as np
import torch

from src.audio import vae
from src.audio.data import Tracks
from src.audio.reconstruct import reconstruct
from src.config import STEMS

SECONDS = 60.0  # duration of the sound
RUNS = 5  # timed runs, after one warm-up


def measure_speed(model: vae.StemVAE, tracks: Tracks, seconds: float = SECONDS) -> dict[str, float]:
    """Speed of reconstruction of each stem, in multiples of real time, on the first `seconds` of the joined tracks."""
    samples = int(seconds * tracks.sample_rate)
    speeds = {}
    for stem_index, stem in enumerate(STEMS):
        sound = torch.cat([stems[stem_index, :samples] for stems in tracks.waveforms])[:samples].numpy()
        speeds[stem] = round(time_reconstruction(model, sound, tracks.sample_rate, stem), 1)
    return speeds


def time_reconstruction(model: vae.StemVAE, waveform: np.ndarray, sample_rate: int, stem: str) -> float:
    """Duration of a waveform (samples,) over the time of its reconstruction: the median of `RUNS` runs after one."""
    durations = []
    for _ in range(1 + RUNS):
        began = time.perf_counter()
        reconstruct(model, waveform, sample_rate, stem)
        durations.append(time.perf_counter() - began)
    return len(waveform) / sample_rate / statistics.median(durations[1:])
