"""The flow's arithmetic against closed forms: path, network, solver, latent, guidance, training."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from src import checkpoints, paths, training_loop
from src.audio import flow, flow_training
from src.audio.data import Tracks
from src.config import STEMS, STYLE_SPREAD, FlowConfig
from src.errors import UsageError

SMALL = FlowConfig(
    sample_rate=4000, mel_bands=16, mel_window=256, mel_hop=64, latent_dim=8, width=8, blocks=2, style_means=3,
    style_deviations=2, window=20, epochs=4, passes_per_epoch=1, batch_size=1, checkpoint_every=2,
)  # fmt: skip


@pytest.fixture
def tracks() -> Tracks:
    """Two tracks of four noises, each with a loudness of its own."""
    loudness = torch.tensor([0.3, 0.1, 0.2, 0.05])[:, None]
    stream = torch.Generator().manual_seed(0)
    noises = [torch.randn(4, samples, generator=stream) * loudness for samples in (12_000, 9_000)]
    return Tracks(tuple(noises), ("a", "b"), 4000, "noise")


def random_model(config: FlowConfig = SMALL) -> flow.StemFlow:
    """A model with every weight at random, so that nothing is a special case."""
    torch.manual_seed(1)
    model = flow.StemFlow(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    return model


def conditions(count: int) -> Tensor:
    """Conditions (count, 4 + 5) of the first stems, in styles of their own."""
    styles = torch.randn(count, SMALL.style_dim, generator=torch.Generator().manual_seed(3))
    return torch.cat([torch.eye(4)[:count], styles], dim=1)


def no_context(points: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(points), torch.zeros_like(points[..., :1])


def test_noise_has_unit_variance_and_a_common_part():
    torch.manual_seed(0)
    noise = flow.mix_noise(torch.randn(50_000, 2), torch.randn(50_000, 1), 0.3)
    assert noise.var().item() == pytest.approx(1, abs=0.02)
    assert (noise[:, 0] * noise[:, 1]).mean().item() == pytest.approx(0.3, abs=0.02)


# --- path and solver ---


def test_the_path_is_a_straight_line_from_noise_to_data():
    noise, data = torch.randn(3, 5, 2), torch.randn(3, 5, 2)
    assert torch.equal(flow.path_point(noise, data, torch.zeros(3)), noise)
    assert torch.equal(flow.path_point(noise, data, torch.ones(3)), data)
    times = torch.tensor([0.1, 0.5, 0.9])
    between = flow.path_point(noise.double(), data.double(), times.double())
    later = flow.path_point(noise.double(), data.double(), times.double() + 1e-3)
    torch.testing.assert_close((later - between) / 1e-3, flow.path_velocity(noise, data).double())


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("begin", [0.0, 0.4])
def test_the_solver_is_exact_for_a_velocity_linear_in_time(steps, begin):
    points = torch.randn(4, 2, dtype=torch.float64)
    solved = flow.solve(lambda x, time: torch.full_like(x, 2 + 6 * time), points, steps, begin)
    torch.testing.assert_close(solved, points + 2 * (1 - begin) + 3 * (1 - begin**2))


def gaussian_velocity(points: Tensor, time: float, mean: float, deviation: float) -> Tensor:
    """The marginal velocity of the straight path from N(0, 1) to N(mean, deviation^2), in closed form."""
    variance = (1 - time) ** 2 + (time * deviation) ** 2
    return mean + (time * deviation**2 - (1 - time)) / variance * (points - time * mean)


def test_the_solver_matches_a_gaussian():
    """The exact flow from N(0, 1) to N(3, 0.5^2) is x -> 3 + 0.5 x."""
    points = torch.linspace(-2, 2, 9, dtype=torch.float64)
    solved = flow.solve(lambda x, time: gaussian_velocity(x, time, 3, 0.5), points, 40)
    torch.testing.assert_close(solved, 3 + points / 2, atol=2e-4, rtol=0)


def test_the_error_of_the_solver_is_of_second_order():
    """dx/dt = x leads from 1 to e."""
    one = torch.ones(1, dtype=torch.float64)
    errors = [abs(flow.solve(lambda x, time: x, one, steps).item() - math.e) for steps in (20, 40)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)


def test_the_least_loss_is_reached_by_the_marginal_velocity():
    """Of a Gaussian: the loss of the closed form is the variance of data - noise given the point; others have more."""
    stream = torch.Generator().manual_seed(0)
    noise, unit = torch.randn(200_000, generator=stream), torch.randn(200_000, generator=stream)
    data, time = 3 + unit / 2, 0.3
    point = flow.path_point(noise, data, torch.full((len(data),), time))
    estimate = gaussian_velocity(point, time, 3, 0.5)
    loss = (estimate - flow.path_velocity(noise, data)).square().mean().item()
    variance = (1 - time) ** 2 + (time / 2) ** 2
    expected = 1 + 0.25 - (time * 0.25 - (1 - time)) ** 2 / variance
    assert loss == pytest.approx(expected, rel=0.02)
    assert (1.1 * estimate - flow.path_velocity(noise, data)).square().mean() > loss


def test_a_solver_without_steps_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        flow.solve(lambda x, time: x, torch.zeros(1), 0)


# --- network ---


def test_the_network_starts_at_zero():
    points = torch.randn(2, 20, 8)
    output = flow.VelocityNetwork(SMALL)(points, torch.rand(2), conditions(2), *no_context(points))
    assert torch.equal(output, torch.zeros_like(points))


def test_the_network_reads_known_frames_only_where_they_are_known():
    network = random_model().network
    points, known = torch.randn(1, 20, 8), torch.randn(1, 20, 8)
    is_known = (torch.arange(20) < 6).float()[None, :, None]
    arguments = points, torch.tensor([0.5]), conditions(1)
    with torch.no_grad():
        output = network(*arguments, known, is_known)
        other = known.clone()
        other[:, 6:] += 1
        assert torch.equal(network(*arguments, other, is_known), output)
        other[:, 5] += 1
        assert not torch.allclose(network(*arguments, other, is_known), output)


def test_a_frame_depends_on_its_surroundings_alone_wherever_it_lies():
    """So a long clip is made as a short one is. Blocks of dilations 1 and 2 reach 3 frames to each side."""
    network = random_model().network
    points, condition = torch.randn(1, 60, 8), conditions(1)
    with torch.no_grad():
        whole = network(points, torch.tensor([0.5]), condition, *no_context(points))
        part = points[:, 20:40]
        torch.testing.assert_close(
            network(part, torch.tensor([0.5]), condition, *no_context(part))[:, 3:-3], whole[:, 23:37]
        )


def test_guidance_moves_away_from_the_velocity_without_a_condition():
    model = random_model()
    points, condition = torch.randn(1, 20, 8), conditions(1)
    context = no_context(points)
    with torch.no_grad():
        with_it, free = (
            model.network(points, torch.tensor([0.5]), given, *context) for given in (condition, condition * 0)
        )
        assert not torch.allclose(with_it, free)
        assert torch.equal(model.velocity(condition, points, *context, guidance=0)(points, 0.5), with_it)
        torch.testing.assert_close(
            model.velocity(condition, points, *context, guidance=2)(points, 0.5), 3 * with_it - 2 * free
        )
        outside = model.velocity(condition, points, *context, guidance=2, interval=(0.6, 1.0))(points, 0.5)
        assert torch.equal(outside, with_it)


def test_known_frames_arrive_at_their_data():
    model = random_model()
    noise, known = torch.randn(1, 20, 8), torch.randn(1, 20, 8)
    is_known = (torch.arange(20) < 6).float()[None, :, None]
    with torch.no_grad():
        solved = flow.solve(model.velocity(conditions(1), noise, known, is_known, guidance=1.0), noise, 3)
    torch.testing.assert_close(solved[:, :6], known[:, :6])
    assert not torch.allclose(solved[:, 6:], known[:, 6:])


# --- latent ---


def test_decoding_inverts_encoding():
    model = random_model(replace(SMALL, latent_dim=20))
    model.mean.normal_()
    model.deviation.uniform_(0.5, 2)
    log_mel = torch.rand(2, 40, 16) * 80 - 70
    latent, rest = model.encode(log_mel)
    assert latent.shape == (2, 10, 20)
    assert rest.shape == (2, 10, 44)
    torch.testing.assert_close(model.decode(latent, rest, 40), log_mel, atol=1e-3, rtol=0)
    assert model.encode(log_mel[:, :39])[0].shape == (2, 10, 20)


def test_the_statistics_normalise_the_latent(tracks):
    model = flow_training.start(SMALL, tracks).model
    coded = [model.encode(model.log_mel(stems[index : index + 1])) for stems in tracks.waveforms for index in range(4)]
    latents = torch.cat([latent[0] for latent, _ in coded])
    torch.testing.assert_close(latents.mean(0), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std(0), torch.ones(8), atol=1e-4, rtol=0)


def test_the_left_out_coefficients_are_estimated_by_ridge_regression(tracks):
    """The same estimate as that of least squares with rows added for the penalty and for the intercept."""
    model = flow_training.start(SMALL, tracks).model
    coded = [model.encode(model.log_mel(stems[2:3])) for stems in tracks.waveforms]
    inputs = np.concatenate([flow.with_neighbours(latent)[0].numpy() for latent, _ in coded])
    rest = np.concatenate([left_out[0].numpy() for _, left_out in coded])
    size = inputs.shape[1]
    penalty = flow_training.RIDGE**0.5 * np.eye(size)
    system = np.block([[inputs, np.ones((len(inputs), 1))], [penalty, np.zeros((size, 1))]])
    solution, *_ = np.linalg.lstsq(system, np.concatenate([rest, np.zeros((size, rest.shape[1]))]))
    np.testing.assert_allclose(model.rest_weights[2], solution[:-1], atol=1e-6)
    np.testing.assert_allclose(model.rest_intercept[2], solution[-1], atol=1e-6)
    expected = np.concatenate([model.expected_rest(2, latent)[0].numpy() for latent, _ in coded])
    np.testing.assert_allclose(model.rest_deviation[2], (rest - expected).std(0, ddof=1), rtol=1e-3, atol=1e-5)


def test_frames_stand_beside_their_neighbours():
    frames = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    together = [[1, 2, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6], [3, 4, 5, 6, 5, 6]]
    assert flow.with_neighbours(frames).tolist() == [together]


# --- style ---


def test_a_style_is_mean_and_deviation_over_the_frames():
    """Coefficient k of the latent is 1 + k in even frames and 3 + k in odd ones: mean 2 + k, standard deviation 1."""
    model = random_model()
    latent = 1 + torch.arange(8.0).repeat(20, 1)
    latent[1::2] += 2
    model.style_mean.copy_(torch.tensor([2.0, 2.0, 2.0, 0.5, 0.5]))
    model.style_deviation.copy_(torch.tensor([1.0, 2.0, 4.0, 1.0, 0.5]))
    torch.testing.assert_close(model.style(latent[None]), torch.tensor([[0.0, 0.5, 0.5, -0.5, -1.0]]))
    still = model.style(latent[:1][None])[0, 3]  # one frame does not change: the deviation is clamped
    assert still.item() == pytest.approx(math.log(flow.LEAST_DEVIATION) - 0.5)


def test_drawn_styles_have_the_mean_and_a_share_of_the_covariance_of_those_of_training():
    model = random_model()
    model.styles.copy_(torch.randn(model.styles.shape, generator=torch.Generator().manual_seed(0)).cumsum(dim=2) + 3)
    stream = torch.Generator().manual_seed(1)
    drawn = torch.cat([model.draw_style(2, stream) for _ in range(20_000)])
    torch.testing.assert_close(drawn.mean(0), model.styles[2].mean(0), atol=0.05, rtol=0)
    covariance = STYLE_SPREAD**2 * model.styles[2].T.cov(correction=0)
    torch.testing.assert_close(drawn.T.cov(), covariance, atol=0.15, rtol=0.05)
    assert torch.cdist(drawn[:100], model.styles[2]).min() > 0.01  # none is that of a training window


def test_the_styles_of_training_windows_are_normalised(tracks):
    model = flow_training.start(SMALL, tracks).model
    styles = model.styles.flatten(0, 1)
    torch.testing.assert_close(styles.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(styles.std(0), torch.ones(5), atol=1e-3, rtol=0)
    assert model.styles[0, :, 0].min() > model.styles[3, :, 0].max()  # the loudest stem's mean is above the softest's


def test_left_out_coefficients_are_drawn_around_the_estimate_of_their_stem():
    model = random_model()
    model.rest_intercept[2] = torch.linspace(-3, 3, 56)
    model.rest_weights[2, 8 + 5] = 2.0  # coefficient 5 of the frame itself, which stands after its earlier neighbour
    model.rest_deviation[2] = torch.linspace(0.5, 2, 56)
    latent = torch.zeros(1, 3, 8)
    latent[0, 1, 5] = 10.0
    drawn = model.draw_rest(2, latent, torch.ones(1, 3, 56))[0]
    torch.testing.assert_close(drawn[0], model.rest_intercept[2] + model.rest_deviation[2])
    torch.testing.assert_close(drawn[1], drawn[0] + 20)
    torch.testing.assert_close(drawn[2], drawn[0])


def test_a_condition_is_the_stem_one_hot_and_the_style():
    condition = random_model().condition(torch.tensor([2, 0]), torch.arange(10.0).reshape(2, 5))
    assert condition.tolist() == [[0, 0, 1, 0, 0, 1, 2, 3, 4], [1, 0, 0, 0, 5, 6, 7, 8, 9]]


# --- training ---


def test_batches_depend_on_seed_and_epoch_alone(tracks):
    first, again = (list(flow_training.batches(SMALL, tracks, epoch=3)) for _ in range(2))
    assert len(first) == flow_training.steps_per_epoch(SMALL, tracks) > 1
    for (mels, stems), (same, _) in zip(first, again, strict=True):
        assert torch.equal(mels, same)
        assert mels.shape == (4, 4 * SMALL.window, 16)
        assert stems.tolist() == list(range(len(STEMS)))
    assert not torch.equal(first[0][0], next(flow_training.batches(SMALL, tracks, epoch=4))[0])


def test_a_window_has_no_dark_edges(tracks):
    """Its first and last frames are as loud as the others: the crop's ends are left out."""
    mels = torch.cat([batch for batch, _ in flow_training.batches(replace(SMALL, passes_per_epoch=9), tracks, 0)])
    levels = mels.mean(dim=(0, 2))
    assert (levels - levels.mean()).abs().max() < 2


def test_a_part_of_the_windows_has_known_first_frames():
    run = flow_training.Run(config=replace(SMALL, context_share=0.5, condition_dropout=0.1), **dict.fromkeys(
        ("model", "average", "optimiser")))  # fmt: skip
    torch.manual_seed(0)
    _, style_noise, times, is_known, conditioned = flow_training.draw_noise(run, 4000)
    known = is_known.sum(dim=(1, 2))
    assert (known > 0).float().mean() == pytest.approx(0.5, abs=0.05)
    assert set(known.int().tolist()) == {0, *range(8, 13)}
    assert bool((is_known.diff(dim=1) <= 0).all())
    assert style_noise.std() == pytest.approx(SMALL.style_noise, rel=0.05)
    assert conditioned.mean() == pytest.approx(0.9, abs=0.03)
    assert times.median() == pytest.approx(0.5, abs=0.03)


def test_known_frames_do_not_count_in_the_loss():
    model = random_model()
    data, noise = torch.randn(2, 20, 8), torch.randn(2, 20, 8)
    is_known = (torch.arange(20) < 12).float()[None, :, None].expand(2, -1, -1)
    times = torch.rand(2)
    with torch.no_grad():
        loss = flow.flow_loss(model, data, conditions(2), is_known, noise, times)
        estimate = model.network(flow.path_point(noise, data, times), times, conditions(2), data, is_known)
    expected = (estimate - (data - noise))[:, 12:].square().mean(dim=(1, 2))
    torch.testing.assert_close(loss, expected)


def test_resumed_run_has_the_bits_of_one_never_stopped(tracks, tmp_path):
    straight, broken = paths.FlowPaths("straight", tmp_path), paths.FlowPaths("broken", tmp_path)
    whole = flow_training.train(SMALL, tracks, straight, progress=False)
    flow_training.train(SMALL, tracks, broken, progress=False)
    checkpoints.state_path(broken, 4).unlink()
    resumed = flow_training.train(SMALL, tracks, broken, progress=False)
    for part in ("model", "average"):
        ours, theirs = (getattr(run, part).state_dict() for run in (whole, resumed))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert training_loop.finished(broken)
    published = flow.load_flow(broken.weights)
    assert published.config == SMALL
    for name, part in published.state_dict().items():  # in half precision
        torch.testing.assert_close(part, resumed.average.state_dict()[name], atol=1e-6, rtol=1e-3)


def test_training_lowers_the_loss_on_held_out_windows(tracks):
    config = replace(SMALL, batch_size=4, passes_per_epoch=4, learning_rate=1e-2, ema_decay=0.9)
    run = flow_training.start(config, tracks)
    scorer = flow_training.Scorer(config, tracks)
    before = scorer.score_checkpoint(run.average)["flow_loss"]
    assert before == scorer.score_checkpoint(run.average)["flow_loss"]
    torch.manual_seed(0)
    for epoch in range(20):
        for batch in flow_training.batches(config, tracks, epoch):
            flow_training.train_step(run, batch)
            run.step += 1
    assert scorer.score_checkpoint(run.average)["flow_loss"] < before - 0.04


def test_invalid_settings_are_refused():
    with pytest.raises(UsageError, match="width is 0"):
        FlowConfig(width=0)
    with pytest.raises(UsageError, match="mel_hop is 7: it must be a power of 2"):
        FlowConfig(mel_hop=7)
    with pytest.raises(UsageError, match="window is 16"):
        FlowConfig(window=16)
    with pytest.raises(UsageError, match="common_noise is 2"):
        FlowConfig(common_noise=2.0)
    with pytest.raises(UsageError, match="style_deviations is 9: it must lie between 1 and latent_dim, 8"):
        replace(SMALL, style_deviations=9)
