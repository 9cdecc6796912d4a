"""Spectrogram figures, and sounds in a notebook: a picture and a player."""

import base64
import io
from collections.abc import Mapping

import matplotlib
import numpy as np
import soundfile
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.audio.spectrogram import MelSpectrogram
from src.figures import BLUE, NEUTRAL, NOTEBOOK_DPI, STYLE, WIDTH, small_png

RANGE_DB = 60.0  # shown below the loudest bin
FREQUENCY_TICKS = {250: "0.25", 1000: "1", 4000: "4"}  # Hz: label in kHz


def spectrogram_figure(log_mels: Mapping[str, np.ndarray], mel: MelSpectrogram, columns: int = 2) -> Figure:
    """Log-mel spectrograms (frames, bands) in dB under their titles, `columns` side by side, with one colour scale for
    each row: white is its loudest bin, black 60 dB less."""
    rows = -(-len(log_mels) // columns)
    titles = list(log_mels)
    figure = Figure(figsize=(WIDTH, 1.7 * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for row, axes_of_row in enumerate(panels):
        names = titles[row * columns : (row + 1) * columns]
        loudest = max(float(np.max(log_mels[name])) for name in names)
        for column, (axes, name) in enumerate(zip(axes_of_row, names, strict=False)):
            _draw_spectrogram(axes, log_mels[name], mel, loudest)
            axes.set(title=name, xlabel=None, ylabel="kHz" if column == 0 else None)
            if row * columns + column >= len(titles) - columns:
                axes.set_xlabel("seconds")
        for axes in axes_of_row[len(names) :]:
            axes.set_axis_off()
    return figure


def _draw_spectrogram(axes, log_mel: np.ndarray, mel: MelSpectrogram, loudest: float) -> None:
    from librosa.display import specshow  # here, since importing it takes as long as drawing

    specshow(
        log_mel.T, sr=mel.sample_rate, hop_length=mel.hop, x_axis="time", y_axis="mel", fmax=mel.sample_rate / 2,
        cmap="magma", vmin=loudest - RANGE_DB, vmax=loudest, ax=axes, rasterized=True,
    )  # fmt: skip
    axes.set_yticks(list(FREQUENCY_TICKS), list(FREQUENCY_TICKS.values()))
    axes.minorticks_off()
    axes.grid(False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=(1, 2, 5, 10)))


def show_sounds(sounds: Mapping[str, np.ndarray | torch.Tensor], mel: MelSpectrogram) -> None:
    """Show sounds (samples,), full scale 1, in a notebook: under each title its waveform, its log-mel spectrogram and a
    player. All spectrograms have one colour scale.

    A page that shows no players, as GitHub does, still shows the pictures. Sound with peaks above full scale is
    attenuated, and the title says by how much.

    Raises:
        ValueError: values that are not finite.
    """
    from IPython.display import HTML, Image, display  # here, since commands do without

    waveforms = {title: np.asarray(sound, np.float32) for title, sound in sounds.items()}
    for title, waveform in waveforms.items():
        if not np.isfinite(waveform).all():
            raise ValueError(f"the sound of {title} holds values that are not finite")
    log_mels = {title: mel.log_mel(torch.from_numpy(waveform)).numpy() for title, waveform in waveforms.items()}
    loudest = max(float(log_mel.max()) for log_mel in log_mels.values())
    for title, waveform in waveforms.items():
        peak = float(np.abs(waveform).max(initial=0))
        note = f" (turned down by {20 * np.log10(peak):.1f} dB)" if peak > 1 else ""
        with matplotlib.rc_context(STYLE | NEUTRAL):
            figure = _sound_figure(title + note, waveform, log_mels[title], mel, loudest)
        display(Image(data=small_png(figure)), HTML(player(waveform / max(1, peak), mel.sample_rate)))


def _sound_figure(title: str, waveform: np.ndarray, log_mel: np.ndarray, mel: MelSpectrogram, loudest: float) -> Figure:
    """The waveform above the log-mel spectrogram."""
    figure = Figure(figsize=(WIDTH, 2.1), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=(1, 3))
    times = np.arange(len(waveform)) / mel.sample_rate
    top.plot(times, waveform, color=BLUE, linewidth=0.4, rasterized=True)
    top.set(title=title, xlim=(0, len(waveform) / mel.sample_rate))
    top.set_axis_off()
    _draw_spectrogram(bottom, log_mel, mel, loudest)
    bottom.set(xlabel="seconds", ylabel="kHz")
    return figure


def player(waveform: np.ndarray, sample_rate: int) -> str:
    """HTML of a player with the sound (samples,), full scale 1, embedded as FLAC: 16 bits, nothing lost."""
    memory = io.BytesIO()
    soundfile.write(memory, waveform, sample_rate, format="FLAC", subtype="PCM_16")
    data = base64.b64encode(memory.getvalue()).decode("ascii")
    style = f"width:100%;max-width:{WIDTH * NOTEBOOK_DPI:.0f}px"
    return f'<audio controls preload="none" style="{style}" src="data:audio/flac;base64,{data}"></audio>'
