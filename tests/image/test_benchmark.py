"""The comparisons run, count right, and train what they say."""

import pytest
import torch

from src.config import ImageConfig
from src.image import benchmark, dcgan


def test_repetition_stops_at_its_time_and_counts():
    calls = []
    count, seconds = benchmark.repeat_for(0.05, lambda: calls.append(0), "nothing", progress=False)
    assert count == len(calls) > 1
    assert seconds >= 0.05


def test_a_timed_run_goes_through_epochs(small_config, blobs):
    run = benchmark.train_for(0.5, small_config, blobs.images, "small", progress=False)
    assert run.step >= 1
    assert run.epoch == (run.step - 1) // (len(blobs) // small_config.batch_size)
    assert run.seconds >= 0.5


def test_tutorial_dcgan_has_the_tutorials_size_and_trains(blobs):
    tutorial = benchmark.Tutorial(blobs.images)
    tutorial.batch_size = 4
    # By hand, with one colour channel: inputs x outputs x 4 x 4 of each layer, and 2 per batch-norm channel.
    convolutions = (100 * 512 + 512 * 256 + 256 * 128 + 128 * 64 + 64) * 16
    assert sum(p.numel() for p in tutorial.generator.parameters()) == convolutions + 2 * (512 + 256 + 128 + 64)
    convolutions = (64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) * 16
    assert sum(p.numel() for p in tutorial.discriminator.parameters()) == convolutions + 2 * (128 + 256 + 512)
    before = [p.clone() for p in (*tutorial.generator.parameters(), *tutorial.discriminator.parameters())]
    tutorial.step()
    after = [*tutorial.generator.parameters(), *tutorial.discriminator.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    images = tutorial.sample(6, seed=1)
    assert images.shape == (6, 1, 28, 28)
    assert images.dtype == torch.uint8


def test_inference_times_are_positive():
    generator = dcgan.build_generator(ImageConfig(latent_dim=8, generator_width=4)).eval()
    assert all(seconds > 0 for seconds in benchmark.time_inference(generator, repeats=2).values())


@pytest.mark.parametrize("name", benchmark.VARIANTS)
def test_every_variant_is_a_valid_configuration(name):
    config = ImageConfig(**benchmark.VARIANTS[name])
    assert (config == ImageConfig()) == (name == "default")


def test_samples_of_the_tutorials_dcgan_do_not_change_its_training(blobs):
    one, other = (benchmark.Tutorial(blobs.images) for _ in range(2))
    one.sample(2, seed=3)
    assert torch.equal(one._latents(4, one.stream), other._latents(4, other.stream))
