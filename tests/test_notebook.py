"""Helpers of the notebooks: what is shown is what runs, and pictures keep their pixels."""

import inspect
import io

import numpy as np
import torch
from PIL import Image
from torch import nn

from src import notebook
from src.image import losses


def test_a_source_is_the_code_of_the_functions():
    text = notebook.source(losses.generator_loss, losses.discriminator_loss).data
    assert text.startswith("```python\ndef generator_loss(") and text.endswith("\n```")
    assert inspect.getsource(losses.discriminator_loss).rstrip() in text
    folded = notebook.source(losses.generator_loss, folded="more").data
    assert folded.startswith("<details><summary>more</summary>\n\n```python\n") and folded.endswith("\n\n</details>")


def test_the_table_of_layers_counts_weights_and_shows_shapes():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    lines = notebook.layer_table(network, torch.zeros(5, 1, 4, 4)).data.splitlines()
    assert lines[2:] == ["| Conv2d | 4 x 2 x 2 | 40 |", "| Linear | 2 | 34 |", "| all | | 74 |"]
    assert not any(layer._forward_hooks for layer in network.modules())


def test_pictures_enlarge_each_pixel_by_a_whole_number():
    images = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    pixels = read(notebook.digits(images, columns=3, scale=3))
    assert pixels.shape == (2 * 86, 3 * 86)
    tile = pixels[86 + 1 : 86 + 85, 86 + 1 : 86 + 85]  # second row, second column
    assert np.array_equal(tile, images[4, 0].numpy().repeat(3, axis=0).repeat(3, axis=1))


def test_labels_and_captions_leave_the_pixels_alone():
    images = torch.randint(0, 256, (2, 3, 1, 28, 28), dtype=torch.uint8)
    pixels = read(notebook.digits(images, columns=3, row_labels=["a", "long label"], captions=["c"] * 6))
    margin = pixels.shape[1] - 3 * 58
    assert margin > 20 and pixels.shape[0] == 2 * (58 + notebook.TEXT_HEIGHT)
    tile = images[0, 1, 0].numpy().repeat(2, axis=0).repeat(2, axis=1)
    assert np.array_equal(pixels[1:57, margin + 59 : margin + 115], tile)
    assert pixels[:, :margin].any() and pixels[57 : 58 + notebook.TEXT_HEIGHT, margin:].any()


def read(picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture.data)))
