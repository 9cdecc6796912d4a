"""The networks: shapes, ranges, the paper's initial weights, and the projection's identity with a convolution."""

import pytest
import torch
from torch import nn

from src import checkpoints, paths
from src.config import ImageConfig
from src.errors import CheckpointError
from src.image import dcgan


@pytest.mark.parametrize("output", ["transposed", "convolution"])
@pytest.mark.parametrize("depth", [3, 4])
def test_generator_draws_28x28_within_tanh(depth, output):
    config = ImageConfig(latent_dim=16, generator_width=4, generator_depth=depth, generator_output=output)
    generator = dcgan.build_generator(config)
    images = generator(torch.randn(5, 16), dcgan.one_hot(torch.arange(5), 10))
    assert images.shape == (5, 1, 28, 28)
    assert images.abs().max() <= 1


@pytest.mark.parametrize("depth", [3, 4])
@pytest.mark.parametrize("norm", ["none", "batch", "spectral"])
def test_discriminator_gives_one_logit_per_image(norm, depth):
    config = ImageConfig(discriminator_width=4, discriminator_depth=depth, discriminator_norm=norm)
    discriminator = dcgan.build_discriminator(config)
    assert discriminator(torch.randn(5, 1, 28, 28), dcgan.one_hot(torch.arange(5), 10)).shape == (5,)


def test_one_hot_vectors_are_torchs_and_empty_without_classes():
    digits = torch.tensor([3, 0, 9])
    assert torch.equal(dcgan.one_hot(digits, 10), nn.functional.one_hot(digits, 10).float())
    assert dcgan.one_hot(digits, 0).shape == (3, 0)


def test_a_logit_is_the_shared_output_plus_that_of_the_asked_digit():
    discriminator = dcgan.build_discriminator(ImageConfig(discriminator_width=4)).eval()
    images, digits = torch.randn(10, 1, 28, 28), torch.arange(10)
    outputs = discriminator.layers(images)
    assert outputs.shape == (10, 11)
    expected = torch.stack([outputs[row, 0] + outputs[row, 1 + digit] for row, digit in enumerate(digits)])
    torch.testing.assert_close(discriminator(images, dcgan.one_hot(digits, 10)), expected)


def test_without_classes_the_networks_are_the_unconditional_ones():
    config = ImageConfig(latent_dim=6, generator_width=2, discriminator_width=4, classes=0)
    generator, discriminator = dcgan.build_generator(config), dcgan.build_discriminator(config)
    assert generator.project.in_features == 6 and discriminator.layers[-2].out_channels == 1
    empty = torch.empty(3, 0)
    latents = torch.randn(3, 6)
    torch.testing.assert_close(generator(latents, empty), generator.layers(generator.project(latents)))
    images = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(discriminator(images, empty), discriminator.layers(images)[:, 0])


def test_a_digits_numbers_have_the_mean_square_of_a_latents():
    generator = dcgan.build_generator(ImageConfig(latent_dim=6, generator_width=2))
    received = []
    generator.project.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0]))
    generator(torch.zeros(2, 6), dcgan.one_hot(torch.tensor([1, 7]), 10))
    assert received[0][:, 6:].square().mean().item() == pytest.approx(1)


@pytest.mark.parametrize("classes", [-1, 1, 11])
def test_another_number_of_classes_is_refused(classes):
    with pytest.raises(ValueError, match=f"classes is {classes}: use 10, or 0"):
        ImageConfig(classes=classes)


def test_the_unconditional_generator_is_read_as_such():
    assert dcgan.load_model(paths.IMAGE.unconditional).classes == 0
    assert dcgan.load_model().classes == 10


def test_every_pixel_reaches_the_logit():
    discriminator = dcgan.build_discriminator(ImageConfig(discriminator_width=4))
    images = torch.randn(2, 1, 28, 28, requires_grad=True)
    discriminator(images, dcgan.one_hot(torch.arange(2), 10)).sum().backward()
    assert (images.grad.abs().sum(0) > 0).all()


def test_projection_is_the_papers_transposed_convolution():
    generator = dcgan.build_generator(ImageConfig(latent_dim=6, classes=0, generator_width=2)).eval()
    convolution = nn.ConvTranspose2d(6, 16, kernel_size=4, bias=False)
    with torch.no_grad():
        convolution.weight.copy_(generator.project.weight.T.reshape(6, 16, 4, 4))
    latents = torch.randn(3, 6)
    expected = convolution(latents[:, :, None, None])
    torch.testing.assert_close(generator.project(latents).reshape(3, 16, 4, 4), expected)


def test_initial_weights_follow_the_paper():
    generator = dcgan.build_generator(ImageConfig())
    for module in generator.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and module.weight.numel() > 10_000:
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert module.weight.mean().item() == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("depth", [2, 5])
def test_unknown_depth_is_refused(depth):
    with pytest.raises(ValueError, match=f"generator_depth is {depth}: use 3 or 4"):
        ImageConfig(generator_depth=depth)


def test_unknown_output_is_refused():
    with pytest.raises(ValueError, match="generator_output is 'pooled': use 'transposed' or 'convolution'"):
        ImageConfig(generator_output="pooled")


def test_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="discriminator_norm is 'layer'"):
        ImageConfig(discriminator_norm="layer")


@pytest.mark.parametrize("state", [[1], torch.zeros(2), {"config": {}}, {"average": None, "config": None}])
def test_a_file_that_holds_something_else_is_refused(tmp_path, state):
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt is not a"):
        dcgan.load_model(tmp_path / "model.pt")


def test_weights_that_are_not_finite_are_refused(tmp_path):
    weights, description = checkpoints.load_weights(paths.IMAGE.weights)
    weights["layers.1.bias"][0] = torch.nan
    checkpoints.save_weights(tmp_path / "model.safetensors", weights, description)
    with pytest.raises(CheckpointError, match="weights that are not finite"):
        dcgan.load_model(tmp_path / "model.safetensors")


def test_weights_of_another_network_are_refused():
    with pytest.raises(CheckpointError, match=r"classifier\.safetensors is not a generator"):
        dcgan.load_model(paths.IMAGE.classifier)
