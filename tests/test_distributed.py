"""Helpers of training in several processes. tests/image/test_training.py trains in two processes."""

import re

import pytest
import torch
from torch import nn

from src import distributed, paths


def test_in_a_single_process_the_helpers_do_nothing():
    batch = torch.arange(6)
    with distributed.process_group():
        assert torch.equal(distributed.own_share(batch), batch)
        assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
        assert distributed.main_first(lambda: 3) == 3
        distributed.check_agreement(1, "anything")
        distributed.check_batch_size(3)
        distributed.wait_for_all()
        linear = nn.Linear(2, 1)
        linear(torch.ones(1, 2)).sum().backward()
        distributed.average_gradients(linear)
        assert torch.equal(linear.weight.grad, torch.ones(1, 2))


def test_each_process_gets_its_rows_and_a_batch_that_cannot_be_divided_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert distributed.own_share(torch.arange(9)).tolist() == [1, 4, 7]
    with pytest.raises(ValueError, match="a batch of 4 cannot be shared by 3 processes evenly"):
        distributed.check_batch_size(4)


def test_averaging_leaves_out_constants_that_are_not_saved(monkeypatch):
    """Three processes, of which the others hold the values of this one plus 3."""
    model = nn.BatchNorm1d(2)
    model.register_buffer("constant", torch.tensor([0.1, 0.7]), persistent=False)
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda buffer: buffer.mul_(3).add_(6))
    distributed.average_buffers(model)
    assert model.running_mean.tolist() == [2.0, 2.0] and model.running_var.tolist() == [3.0, 3.0]
    assert model.num_batches_tracked == 0
    assert torch.equal(model.constant, torch.tensor([0.1, 0.7]))


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this build of torch has no torch.distributed")
def test_torchrun_understands_the_command_of_the_readme():
    from torch.distributed.run import parse_args

    (command,) = re.findall(r"`torchrun ([^`]+)`", (paths.ROOT / "README.md").read_text(encoding="utf-8"))
    options = parse_args(command.split())
    assert (options.module, options.nproc_per_node, options.training_script) == (True, "2", "src")
    assert options.training_script_args == ["image", "train", "--run", "mine"]
