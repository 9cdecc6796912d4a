"""Style of the figures, and Markdown tables."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure

# The palette of Okabe and Ito, which colour-blind readers can distinguish.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
DPI = 110
STYLE = {
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "lines.linewidth": 2,
    "lines.markersize": 6,
    "legend.frameon": False,
}


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table. All columns but the first are aligned to the right."""
    rule = [":--"] + ["--:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def training_values(training: dict) -> dict[str, str | int]:
    """The template's values of a training run: epochs, minutes, processor with its threads, and precision."""
    machine = training["machine"]
    threads = f" with {machine['threads']} threads" if machine["threads"] > 1 else ""
    return dict(
        epochs=training["epochs"],
        minutes=f"{training['seconds'] / 60:.1f}",
        processor=machine["processor"] + threads,
        precision=machine["training_precision"],
    )


def machine_line(machine: dict) -> str:
    """Processor, threads, Python and package versions of a measurement, as a Markdown list item."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return f"- Machine: {machine['processor']}, {machine['threads']} threads, Python {machine['python']}, {packages}."


def panels(pictures: dict[str, np.ndarray]) -> Figure:
    """Pictures, uint8 (height, width), side by side under their titles."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 10 / len(pictures) + 0.4), layout="constrained")
        for axes, (title, picture) in zip(figure.subplots(1, len(pictures)), pictures.items(), strict=True):
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axes.set_title(title)
            axes.set_axis_off()
    return figure
