"""Random streams, and the description of the machine."""

import pytest
import torch

from src import runtime
from src.errors import UsageError


def test_a_stream_depends_on_all_its_keys_and_nothing_else():
    def draw(*keys: int) -> list[float]:
        return torch.randn(4, generator=runtime.random_stream(*keys)).tolist()

    torch.manual_seed(5)
    first = draw(0, 1)
    torch.manual_seed(6)
    assert draw(0, 1) == first
    assert len({tuple(draw(*keys)) for keys in ((0, 1), (1, 0), (0, 2), (0, 0), (1, 1))}) == 5


def test_description_names_processor_threads_and_packages():
    description = runtime.describe_machine()
    assert description["processor"]
    assert description["threads"] == torch.get_num_threads()
    assert description["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_seeding_lasts_as_long_as_its_block():
    torch.manual_seed(1)
    expected = torch.randn(3)
    torch.manual_seed(1)
    with runtime.seeded(5):
        inside = torch.randn(3)
    assert torch.equal(torch.randn(3), expected)
    torch.manual_seed(5)
    assert torch.equal(torch.randn(3), inside)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(UsageError, match=f"seed is {seed}: it must lie between 0 and 4294967295"):
        runtime.random_stream(seed, 0)
