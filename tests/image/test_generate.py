"""Sampling, interpolation and files."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.utils import make_grid

from src.config import LATENT_STD, MAX_SEED, ImageConfig
from src.errors import OutputError, UsageError
from src.image import dcgan, generate

CONFIG = ImageConfig(latent_dim=8, generator_width=4)


@pytest.fixture
def generator() -> dcgan.Generator:
    return dcgan.build_generator(CONFIG).eval()


@pytest.fixture
def unconditional() -> dcgan.Generator:
    return dcgan.build_generator(replace(CONFIG, classes=0)).eval()


def test_images_depend_on_seed_and_number_alone(generator):
    few, many = generate.sample(generator, 5, seed=3), generate.sample(generator, 130, seed=3)
    assert few.shape == (5, 1, 28, 28)
    assert few.dtype == torch.uint8
    # Another batch size may round a pixel differently, by one level at most.
    assert (few.int() - many[:5].int()).abs().max() <= 1
    assert not torch.equal(few, generate.sample(generator, 5, seed=4))


@pytest.mark.parametrize("case", range(20))
def test_an_image_depends_on_seed_number_and_digit_alone(generator, case):
    draw = random.Random(case)
    seed = draw.choice([0, 1, MAX_SEED, draw.randint(0, MAX_SEED)])
    digits = [draw.randrange(10) for _ in range(draw.randint(1, 9))]
    count, others = draw.randint(1, 9), draw.randint(1, 70)
    few = generate.sample(generator, len(digits), seed, digits)
    many = generate.sample(generator, len(digits) + others, seed, digits + [others % 10] * others)
    # Another batch size may round a pixel differently, by one level at most.
    assert (few.int() - many[: len(digits)].int()).abs().max() <= 1
    # By default, the digits are those of `draw_digits`, and the first ones of a longer draw.
    drawn = generate.draw_digits(count + others, seed)
    assert torch.equal(drawn[:count], generate.draw_digits(count, seed))
    assert torch.equal(generate.sample(generator, count, seed), generate.sample(generator, count, seed, drawn[:count]))
    # Row r of a number has the latent of image r.
    number = "".join(map(str, digits))
    rows = generate.write_number(generator, number, count, seed)
    assert rows.shape == (count, len(digits), 1, 28, 28) and rows.dtype == torch.uint8
    for column, digit in enumerate(digits):
        alone = generate.sample(generator, count, seed, digit)
        assert (rows[:, column].int() - alone.int()).abs().max() <= 1


def test_drawn_digits_are_equally_likely():
    counts = generate.draw_digits(20_000, seed=5).bincount(minlength=10)
    assert len(counts) == 10
    assert (counts - 2000).abs().max() < 200  # 4.7 standard deviations


def test_asked_digits_differ_and_zeros_are_kept(generator):
    row = generate.write_number(generator, "0070")[0]
    assert torch.equal(row[0], row[1]) and torch.equal(row[0], row[3])
    assert not torch.equal(row[0], row[2])


@pytest.mark.parametrize("digits", ["", 2026, "12a", " 1", "1\n", "-1", "1.5", "\u0663", "\uff12", "1" * 33])
def test_what_is_no_number_is_refused(generator, digits):
    with pytest.raises(UsageError, match="ask for 1 to 32 of the characters 0 to 9"):
        generate.write_number(generator, digits)


@pytest.mark.parametrize(
    ("digits", "message"),
    [
        (10, "digit is 10: it must lie between 0 and 9"),
        ([0, 1, -1], "digit is -1"),
        ([0, 1], r"\(2,\): give one integer, or one for each image"),
        ([0.0, 1.0, 2.0], "torch.float32"),
        ([[1, 2, 3]], r"\(1, 3\)"),
    ],
)
def test_impossible_digits_are_refused(generator, digits, message):
    with pytest.raises(UsageError, match=message):
        generate.sample(generator, 3, digits=digits)


def test_an_unconditional_generator_refuses_digits_and_draws_without(unconditional):
    assert generate.sample(unconditional, 3, seed=1).shape == (3, 1, 28, 28)
    assert generate.interpolate(unconditional, 0, 1, steps=4).shape == (4, 1, 28, 28)
    for ask in (
        lambda: generate.sample(unconditional, 3, digits=5),
        lambda: generate.write_number(unconditional, "5"),
        lambda: generate.interpolate(unconditional, 0, 0, 4, from_digit=3, to_digit=8),
        lambda: generate.interpolate(unconditional, 0, 0, 4, to_digit=8),
    ):
        with pytest.raises(UsageError, match="unconditional and cannot be asked for a digit"):
            ask()


def test_sampling_leaves_the_global_random_state_alone(generator):
    before = torch.get_rng_state()
    generate.sample(generator, 3)
    assert torch.equal(before, torch.get_rng_state())


def test_latents_are_normal_with_the_asked_deviation():
    latents = generate.draw_latents(2000, 50, std=0.5)
    assert latents.mean().item() == pytest.approx(0, abs=0.005)
    assert latents.std().item() == pytest.approx(0.5, abs=0.005)
    torch.testing.assert_close(generate.draw_latents(20, 50), 2 * LATENT_STD * latents[:20])
    assert abs((latents[:-1] * latents[1:]).mean().item()) < 0.0025  # neighbours are not correlated


@pytest.mark.parametrize(
    ("count", "seed", "message"), [(0, 0, "count is 0"), (-1, 0, "count is -1"), (1, -1, "seed is -1")]
)
def test_impossible_requests_are_refused(generator, count, seed, message):
    with pytest.raises(ValueError, match=message):
        generate.sample(generator, count, seed)


@pytest.mark.parametrize("std", [-0.5, float("nan"), float("inf")])
def test_an_impossible_deviation_of_the_latents_is_refused(generator, std):
    with pytest.raises(ValueError, match="the standard deviation of the latents is"):
        generate.sample(generator, 1, latent_std=std)


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


def test_interpolation_goes_from_one_digit_to_another(generator):
    images = generate.interpolate(generator, 7, 7, steps=3, from_digit=3, to_digit=8)
    for row, digit in ((0, 3), (2, 8)):
        assert (images[row].int() - generate.sample(generator, 1, 7, digit)[0].int()).abs().max() <= 1
    latents, halves = generate.draw_latents(1, 8, 7), torch.zeros(1, 10)
    halves[0, [3, 8]] = 0.5
    assert (images[1].int() - generate.decode(generator, latents, halves)[0].int()).abs().max() <= 1
    kept = generate.interpolate(generator, 3, 4, steps=2, from_digit=6)
    assert (kept[1].int() - generate.sample(generator, 1, 4, 6)[0].int()).abs().max() <= 1
    with pytest.raises(UsageError, match="digit is 12"):
        generate.interpolate(generator, 0, 0, steps=3, from_digit=12)


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
    numbers = generate.write_number(generator, "407", count=2)
    generate.save(numbers, tmp_path / "numbers.npy", columns=3)
    assert np.load(tmp_path / "numbers.npy").shape == (2, 3, 1, 28, 28)
    generate.save(numbers, tmp_path / "numbers", columns=3)
    assert [path.name for path in sorted((tmp_path / "numbers").iterdir())] == ["00000.png", "00001.png"]
    row = np.asarray(Image.open(tmp_path / "numbers" / "00001.png"))
    assert np.array_equal(row, np.concatenate([*numbers[1, :, 0].numpy()], axis=1))
    generate.save(numbers, tmp_path / "numbers.png", columns=3)
    assert Image.open(tmp_path / "numbers.png").size == (2 * (3 * 29 + 1), 2 * (2 * 29 + 1))
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
    (tmp_path / "digits" / "12345.png").write_text("mine")
    generate.save(old[:3], tmp_path / "digits", columns=1)
    names = sorted(path.name for path in (tmp_path / "digits").iterdir())
    assert names == ["00000.png", "00001.png", "00002.png", "12345.png"]
