"""Spectrogram figures and audio players."""

import base64
import io
from collections.abc import Mapping

import matplotlib
import numpy as np
import soundfile
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.audio.spectrogram import MelSpectrogram

RANGE_DB = 60.0  # shown below the loudest bin of a row
FREQUENCY_TICKS = {250: "0.25", 500: "0.5", 1000: "1", 2000: "2", 4000: "4", 8000: "8"}  # Hz: label in kHz


def spectrogram_figure(log_mels: Mapping[str, np.ndarray], mel: MelSpectrogram, columns: int = 4) -> Figure:
    """Log-mel spectrograms (frames, bands) in dB under their titles, `columns` side by side, with one colour scale for
    each row."""
    rows = -(-len(log_mels) // columns)
    titles = list(log_mels)
    with matplotlib.rc_context({"font.size": 11}):
        figure = Figure(figsize=(10, 2.3 * rows + 0.4), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for row, axes_of_row in enumerate(panels):
            names = titles[row * columns : (row + 1) * columns]
            loudest = max(float(np.max(log_mels[name])) for name in names)
            for column, (axes, name) in enumerate(zip(axes_of_row, names, strict=False)):
                image = _draw_spectrogram(axes, log_mels[name], mel, loudest)
                axes.set_title(name, fontsize=11)
                axes.set(xlabel=None, ylabel="frequency (kHz)" if column == 0 else None)
                if row * columns + column >= len(titles) - columns:
                    axes.set_xlabel("time (s)")
            for axes in axes_of_row[len(names) :]:
                axes.set_axis_off()
            figure.colorbar(image, ax=axes_of_row[len(names) - 1], label="dB")
    return figure


def _draw_spectrogram(axes, log_mel: np.ndarray, mel: MelSpectrogram, loudest: float):
    from librosa.display import specshow  # here, since importing it takes as long as drawing

    image = specshow(
        log_mel.T, sr=mel.sample_rate, hop_length=mel.hop, x_axis="time", y_axis="mel", fmax=mel.sample_rate / 2,
        cmap="magma", vmin=loudest - RANGE_DB, vmax=loudest, ax=axes, rasterized=True,
    )  # fmt: skip
    axes.set_yticks(list(FREQUENCY_TICKS), list(FREQUENCY_TICKS.values()))
    axes.minorticks_off()
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=(1, 2, 5, 10)))
    return image


def player(title: str, waveform: np.ndarray, sample_rate: int, note: str = "") -> str:
    """HTML of a player with the sound (samples,), full scale 1, embedded as MP3, so that a notebook stays small.

    Sound with peaks above full scale is attenuated, and the note says by how much.

    Raises:
        ValueError: values that are not finite.
    """
    if not np.isfinite(waveform).all():
        raise ValueError(f"the sound of {title} holds values that are not finite")
    peak = float(np.abs(waveform).max(initial=0))
    if peak > 1:
        waveform, note = waveform / peak, f"{note} (turned down by {20 * np.log10(peak):.1f} dB)".strip()
    memory = io.BytesIO()
    soundfile.write(memory, waveform, sample_rate, format="MP3")
    data = base64.b64encode(memory.getvalue()).decode("ascii")
    return (
        f'<div style="display:inline-block;margin:4px 12px 4px 0"><b>{title}</b> {note}<br>'
        f'<audio controls preload="none" style="width:230px" src="data:audio/mpeg;base64,{data}"></audio></div>'
    )
