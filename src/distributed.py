"""Training in several processes, started by torchrun. In a single process every function here does nothing."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from src import runtime
from src.errors import UsageError

T = TypeVar("T")


@contextmanager
def process_group() -> Iterator[None]:
    """Initialise torch.distributed if launched by torchrun, and shut it down at the end."""
    launched = {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() and not dist.is_initialized()
    if launched:
        on_gpu = runtime.device().type == "cuda"
        if on_gpu:
            torch.cuda.set_device(runtime.device())
        # The other processes wait while rank 0 scores a checkpoint.
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(hours=1))
    try:
        yield
    finally:
        if launched:
            dist.destroy_process_group()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """True on rank 0, the only process that writes files and prints."""
    return rank() == 0


def wait_for_all() -> None:
    """Block until every process has reached this call."""
    if dist.is_initialized():
        dist.barrier()


def main_first(load: Callable[[], T]) -> T:
    """Call `load` on rank 0, then on the others, which find the files that rank 0 fetched."""
    if is_main():
        loaded = load()
    wait_for_all()
    return loaded if is_main() else load()


def check_agreement(value: int, name: str) -> None:
    """Raise UsageError unless `value`, described by `name`, is the same in all processes."""
    if dist.is_initialized():
        values = [None] * world_size()
        dist.all_gather_object(values, value)
        if len(set(values)) > 1:
            raise UsageError(f"the processes differ in {name} ({values}): give all machines the same files")


def at_least_one_each(batch_size: int) -> int:
    """The batch size, raised to the number of processes if there are more of them; rank 0 says so."""
    if batch_size < world_size():
        if is_main():
            warnings.warn(f"a batch of {batch_size} is raised to {world_size()}, one for each process", stacklevel=2)
        return world_size()
    return batch_size


def check_batch_size(batch_size: int) -> None:
    """Raise UsageError unless a batch can be divided evenly among the processes."""
    if batch_size % world_size():
        raise UsageError(f"a batch of {batch_size} cannot be shared by {world_size()} processes evenly")


def own_share(batch: Tensor) -> Tensor:
    """This process's rows of a batch that all processes hold: every world_size-th row."""
    return batch[rank() :: world_size()]


def mean(values: Tensor) -> Tensor:
    """The mean of `values` over the processes, in a tensor of its own."""
    if not dist.is_initialized():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world_size()


def average_gradients(model: nn.Module) -> None:
    """Replace each gradient by its mean over the processes.

    DistributedDataParallel would do this too, but it does not support the double backward pass of a gradient penalty.
    """
    if dist.is_initialized():
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        flat = mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def average_buffers(model: nn.Module) -> None:
    """Replace each saved floating-point buffer (batch-norm statistics) by its mean over the processes.

    Buffers that are not saved are constants; a mean would change them by rounding.
    """
    if dist.is_initialized():
        saved = model.state_dict(keep_vars=True)
        for name, buffer in model.named_buffers():
            if name in saved and buffer.is_floating_point():
                buffer.copy_(mean(buffer))
