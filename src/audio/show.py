"""Sound for the eye and the ear: pictures of log-mel spectrograms, and players that a notebook keeps."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import soundfile
import torch
from matplotlib.figure import Figure

from src import checkpoints
from src.audio import spectrogram
from src.config import AudioConfig

RANGE_DB = 60.0  # shown below the loudest bin of a picture


def spectrograms(mels: Mapping[str, np.ndarray], config: AudioConfig, columns: int = 4) -> Figure:
    """Log-mel spectrograms (frames, bands) in dB under their titles, `columns` side by side, each row on one scale."""
    rows = -(-len(mels) // columns)
    filters = spectrogram.mel_filters(config.sample_rate, config.mel_bands, config.mel_window)
    centres = (torch.linspace(0, config.sample_rate / 2000, len(filters)) @ filters).numpy()  # kHz
    ticks = [0.25, 0.5, 1, 2, 4, 8]
    with matplotlib.rc_context({"font.size": 11}):
        figure = Figure(figsize=(10, 2.3 * rows + 0.4), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
        items = list(mels.items())
        for number, axes in enumerate(panels.flat):
            if number >= len(items):
                axes.set_axis_off()
                continue
            title, mel = items[number]
            row = items[number // columns * columns : (number // columns + 1) * columns]
            loudest = max(float(np.max(other)) for _, other in row)
            seconds = len(mel) * config.mel_hop / config.sample_rate
            image = axes.imshow(
                mel.T, origin="lower", aspect="auto", cmap="magma", vmin=loudest - RANGE_DB, vmax=loudest,
                extent=(0, seconds, 0, config.mel_bands), interpolation="nearest",
            )  # fmt: skip
            axes.set_title(title, fontsize=11)
            axes.set_yticks(
                np.interp(ticks, centres, np.arange(config.mel_bands) + 0.5), [f"{tick:g}" for tick in ticks]
            )
            if number % columns == 0:
                axes.set_ylabel("frequency (kHz)")
            if number >= len(items) - columns:
                axes.set_xlabel("time (s)")
            if number % columns == columns - 1 or number == len(items) - 1:
                figure.colorbar(image, ax=axes, label="dB")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    checkpoints.write_atomically(path, lambda target: figure.savefig(target, format="png", dpi=80))


def player(title: str, waveform: np.ndarray, sample_rate: int, note: str = "") -> str:
    """HTML with a player of sound (samples,) with full scale 1, as MP3 inside, so that a notebook stays small.

    Peaks above full scale are turned down, and said so.
    """
    loudest = float(np.abs(waveform).max(initial=0))
    if loudest > 1:
        waveform, note = waveform / loudest, f"{note} (turned down by {20 * np.log10(loudest):.1f} dB)".strip()
    memory = io.BytesIO()
    soundfile.write(memory, waveform, sample_rate, format="MP3")
    data = base64.b64encode(memory.getvalue()).decode("ascii")
    return (
        f'<div style="display:inline-block;margin:4px 12px 4px 0"><b>{title}</b> {note}<br>'
        f'<audio controls preload="none" style="width:230px" src="data:audio/mpeg;base64,{data}"></audio></div>'
    )
