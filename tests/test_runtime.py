"""Random streams, averaged weights, and what a measurement is labelled with."""

import pytest
import torch
from torch import nn

from src import runtime


def test_a_stream_depends_on_all_its_keys_and_nothing_else():
    def draw(*keys: int) -> list[float]:
        return torch.randn(4, generator=runtime.random_stream(*keys)).tolist()

    torch.manual_seed(5)
    first = draw(0, 1)
    torch.manual_seed(6)
    assert draw(0, 1) == first
    assert len({tuple(draw(*keys)) for keys in ((0, 1), (1, 0), (0, 2), (0, 0), (1, 1))}) == 5


def test_single_process_helpers_do_nothing():
    runtime.start_processes()
    batch = torch.arange(6)
    assert torch.equal(runtime.own_share(batch), batch)
    assert (runtime.rank(), runtime.world_size(), runtime.is_main()) == (0, 1, True)


def test_description_names_processor_threads_and_packages():
    description = runtime.describe()
    assert description["processor"]
    assert description["threads"] == torch.get_num_threads()
    assert description["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_average_follows_its_closed_form():
    model, average = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.constant_(model.weight, 1.0)
    nn.init.constant_(average.weight, 0.0)
    model.running_mean.fill_(3.0)
    model.num_batches_tracked.fill_(7)
    for _ in range(3):
        runtime.update_average(average, model, decay=0.9)
    assert average.weight.tolist() == pytest.approx([1 - 0.9**3] * 2)
    assert average.running_mean.tolist() == pytest.approx([3 * (1 - 0.9**3)] * 2)
    assert average.num_batches_tracked == 7
