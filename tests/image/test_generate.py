"""Sampling, interpolation and files."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.utils import make_grid

from src.config import ImageConfig
from src.errors import OutputError, UsageError
from src.image import dcgan, generate


@pytest.fixture
def generator() -> dcgan.Generator:
    return dcgan.build_generator(ImageConfig(latent_dim=8, generator_width=4)).eval()


def test_images_depend_on_seed_and_number_alone(generator):
    few, many = generate.sample(generator, 5, seed=3), generate.sample(generator, 130, seed=3)
    assert few.shape == (5, 1, 28, 28)
    assert few.dtype == torch.uint8
    # Another batch size may round a pixel differently, by one level at most.
    assert (few.int() - many[:5].int()).abs().max() <= 1
    assert not torch.equal(few, generate.sample(generator, 5, seed=4))


def test_sampling_leaves_the_global_random_state_alone(generator):
    before = torch.get_rng_state()
    generate.sample(generator, 3)
    assert torch.equal(before, torch.get_rng_state())


def test_latents_are_standard_normal():
    latents = generate.draw_latents(2000, 50)
    assert latents.mean().item() == pytest.approx(0, abs=0.01)
    assert latents.std().item() == pytest.approx(1, abs=0.01)
    assert abs((latents[:-1] * latents[1:]).mean().item()) < 0.01  # neighbours are not correlated


@pytest.mark.parametrize(
    ("count", "seed", "message"), [(0, 0, "count is 0"), (-1, 0, "count is -1"), (1, -1, "seed is -1")]
)
def test_impossible_requests_are_refused(generator, count, seed, message):
    with pytest.raises(ValueError, match=message):
        generate.sample(generator, count, seed)


def test_training_mode_is_refused(generator):
    with pytest.raises(ValueError, match="training mode"):
        generate.sample(generator.train(), 1)


def test_slerp_of_orthogonal_unit_vectors_is_the_quarter_circle():
    points = generate.slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1 / 3, 0.5, 1.0]))
    angles = [0, math.pi / 6, math.pi / 4, math.pi / 2]
    torch.testing.assert_close(points, torch.tensor([[math.cos(a), math.sin(a)] for a in angles]), atol=1e-6, rtol=0)


def test_slerp_of_parallel_vectors_is_the_line():
    points = generate.slerp(torch.ones(3), 3 * torch.ones(3), torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(points, torch.tensor([[1.0] * 3, [2.0] * 3, [3.0] * 3]))


def test_interpolation_starts_and_ends_at_its_seeds(generator):
    images = generate.interpolate(generator, 3, 4, steps=5)
    assert images.shape == (5, 1, 28, 28)
    for row, seed in ((0, 3), (4, 4)):
        assert (images[row].int() - generate.sample(generator, 1, seed)[0].int()).abs().max() <= 1
    with pytest.raises(ValueError, match="steps is 1"):
        generate.interpolate(generator, 3, 4, steps=1)


@pytest.mark.parametrize(("count", "columns"), [(1, 8), (5, 3), (6, 3), (64, 8), (3, 10)])
def test_the_grid_is_torchvisions(count, columns):
    images = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8)
    pairs = (
        torch.cat([images, images[:1]]) if count == 1 else images
    )  # torchvision leaves a single image without border
    expected = make_grid(pairs, nrow=columns, padding=1)[0].numpy()
    result = generate.grid(images, columns)
    assert np.array_equal(result, expected[:30, :30] if count == 1 else expected)


def test_files_hold_the_images(generator, tmp_path):
    images = generate.sample(generator, 4)
    generate.save(images, tmp_path / "digits.npy", columns=2)
    assert np.array_equal(np.load(tmp_path / "digits.npy"), images.numpy())
    generate.save(images, tmp_path / "folder", columns=2)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "folder" / "00002.png")), images[2, 0].numpy())
    generate.save(images, tmp_path / "grid.png", columns=2)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "grid.png"))[2:58:2, 2:58:2], images[0, 0].numpy())
    generate.save(images[:2], tmp_path / "folder", columns=2)
    assert [path.name for path in sorted((tmp_path / "folder").iterdir())] == ["00000.png", "00001.png"]
    generate.save(images, tmp_path / "GRID.PNG", columns=2)
    assert (tmp_path / "GRID.PNG").read_bytes() == (tmp_path / "grid.png").read_bytes()
    with pytest.raises(UsageError, match=r"cannot write digits\.jpg: end it in \.png"):
        generate.save(images, tmp_path / "digits.jpg", columns=2)


def test_a_grid_has_at_least_one_column():
    with pytest.raises(UsageError, match="columns is 0"):
        generate.grid(torch.zeros(2, 1, 28, 28, dtype=torch.uint8), columns=0)


def test_a_folder_keeps_its_old_files_until_the_new_ones_are_written(tmp_path):
    old = torch.zeros(5, 1, 28, 28, dtype=torch.uint8)
    generate.save(old, tmp_path / "digits", columns=1)
    (tmp_path / "digits" / "00001.png").unlink()
    (tmp_path / "digits" / "00001.png").mkdir()
    with pytest.raises(OutputError, match=r"00001\.png cannot be written"):
        generate.save(old + 255, tmp_path / "digits", columns=1)
    assert (tmp_path / "digits" / "00004.png").is_file()
    (tmp_path / "digits" / "00001.png").rmdir()
    generate.save(old[:3], tmp_path / "digits", columns=1)
    assert sorted(path.name for path in (tmp_path / "digits").iterdir()) == ["00000.png", "00001.png", "00002.png"]
