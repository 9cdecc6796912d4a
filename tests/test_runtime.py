"""Random streams, and the description of the machine."""

import torch

from src import runtime


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
