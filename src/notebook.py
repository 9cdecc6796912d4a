"""Helpers of the notebooks: source code as Markdown, a table of layers, and pixel-exact pictures of digits."""

import inspect
import io
import textwrap
from collections.abc import Callable, Sequence

import numpy as np
from IPython.display import Image, Markdown
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from torch import Tensor, nn

FONT_SIZE, TEXT_HEIGHT = 12, 15  # pixels


def source(*objects: Callable, folded: str = "") -> Markdown:
    """The source code of functions or classes as Markdown, so that a notebook shows the code that it runs.

    `folded` is the line under which the code is folded away.
    """
    code = "\n\n".join(textwrap.dedent(inspect.getsource(item)).rstrip() for item in objects)
    block = f"```python\n{code}\n```"
    return Markdown(f"<details><summary>{folded}</summary>\n\n{block}\n\n</details>" if folded else block)


def layer_table(network: nn.Module, *inputs: Tensor) -> Markdown:
    """The layers of a network that have weights, with the shape of their output for `inputs` and their number of
    weights."""
    rows: list[str] = []

    def record(layer: nn.Module, _, output: Tensor) -> None:
        count = sum(parameter.numel() for parameter in layer.parameters())
        if count:
            shape = " x ".join(map(str, output.shape[1:]))
            rows.append(f"| {type(layer).__name__} | {shape} | {count:,} |")

    layers = [layer for layer in network.modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(record) for layer in layers]
    network(*inputs)
    for hook in hooks:
        hook.remove()
    total = sum(parameter.numel() for parameter in network.parameters())
    return Markdown("\n".join(["| layer | output | weights |", "| :-- | --: | --: |", *rows, f"| all | | {total:,} |"]))


def digits(
    images: Tensor, columns: int, scale: int = 2, row_labels: Sequence[str] = (), captions: Sequence[str] = ()
) -> Image:
    """A PNG of uint8 images (count, ..., 28, 28), row by row, each pixel enlarged to `scale` x `scale`.

    `row_labels` are written to the left of the rows, `captions` below the images.
    """
    tiles = images.reshape(-1, 28, 28).numpy()
    width, height = 28 * scale + 2, 28 * scale + 2 + (TEXT_HEIGHT if captions else 0)
    canvas = Pillow.new("L", (columns * width, -(-len(tiles) // columns) * height))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT_SIZE)
    for number, tile in enumerate(tiles):
        left, top = number % columns * width + 1, number // columns * height + 1
        canvas.paste(Pillow.fromarray(np.kron(tile, np.ones((scale, scale), np.uint8))), (left, top))
        if captions:
            draw.text((left, top + 28 * scale), captions[number], fill=255, font=font)
    return picture(np.asarray(canvas), row_labels)


def picture(pixels: np.ndarray, row_labels: Sequence[str] = ()) -> Image:
    """A PNG of uint8 pixels (height, width), with labels of its rows, which are of equal height, to the left."""
    font = ImageFont.load_default(FONT_SIZE)
    margin = max((round(font.getlength(label)) + 8 for label in row_labels), default=0)
    canvas = Pillow.new("L", (margin + pixels.shape[1], pixels.shape[0]))
    canvas.paste(Pillow.fromarray(pixels), (margin, 0))
    draw = ImageDraw.Draw(canvas)
    for row, label in enumerate(row_labels):
        middle = (row + 0.5) * pixels.shape[0] / len(row_labels)
        draw.text((4, middle - TEXT_HEIGHT / 2), label, fill=255, font=font)
    file = io.BytesIO()
    canvas.save(file, "PNG", optimize=True)
    return Image(data=file.getvalue(), format="png")
