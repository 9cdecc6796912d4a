"""What a run computes on: device, precision, random streams, and the processes of torchrun."""

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn


def device() -> torch.device:
    """The accelerator of this process where there is one, else the CPU.

    Several processes on one machine share the CPU unless there is a GPU for each.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if torch.cuda.device_count() >= processes:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("mps" if torch.backends.mps.is_available() and processes == 1 else "cpu")


def has_fast_bfloat16(where: torch.device) -> bool:
    """Whether bfloat16 runs in hardware there. Emulated, it is many times slower than float32."""
    if where.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return where.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(where: torch.device) -> AbstractContextManager:
    """Mixed precision for training: bfloat16 where it is fast, float32 elsewhere."""
    return torch.autocast(where.type, dtype=torch.bfloat16, enabled=has_fast_bfloat16(where))


@cache
def keep_freed_memory() -> None:
    """Have Linux's allocator keep large blocks for the next tensor instead of handing them back: asking for them anew
    took half of the time of regenerating sound. Elsewhere nothing happens."""
    trim_threshold, mmap_max = -1, -4  # of mallopt(3)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def random_stream(*keys: int) -> torch.Generator:
    """A CPU random generator that depends on all of `keys` and on nothing else, e.g. (seed, epoch).

    Other keys give another stream, but for chance: torch seeds its CPU generator with 32 bits.
    Drawing each epoch's batches and noise from (seed, epoch) makes resuming exact without saving any random state.
    """
    state = np.random.SeedSequence(keys).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


def describe() -> dict:
    """Processor, threads and package versions, for the protocol of a measurement."""
    where = device()
    packages = ("torch", "torchvision", "torchaudio", "torchmetrics", "numpy", "av", "soxr", "zimtohrli")
    return {
        "processor": torch.cuda.get_device_name(where) if where.type == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "training_precision": "bfloat16" if has_fast_bfloat16(where) else "float32",
        "python": platform.python_version(),
        "packages": {name: known for name in packages if (known := _version(name))},
    }


def _version(package: str) -> str | None:
    """None where it is not installed, as zimtohrli on macOS."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's own name, e.g. 'Intel(R) Xeon(R) Processor', with what sets its speed here."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average <- decay average + (1 - decay) model, batch-norm statistics included; counters are copied."""
    for old, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)


# --- several processes (torchrun); all of it does nothing in a single one ---


def start_processes() -> None:
    """Join the process group that torchrun describes in the environment, if it does."""
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        on_gpu = device().type == "cuda"
        if on_gpu:
            torch.cuda.set_device(device())
        # The other processes wait while the first one scores a checkpoint.
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(hours=1))


def stop_processes() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that writes files and talks."""
    return rank() == 0


def wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()


T = TypeVar("T")


def main_first(load: Callable[[], T]) -> T:
    """Call `load` in the main process, then in the others: they find what the first one fetched."""
    if is_main():
        loaded = load()
    wait_for_all()
    return loaded if is_main() else load()


def check_agreement(value: int, what: str) -> None:
    """Raise ValueError unless `value` is the same in all processes."""
    if dist.is_initialized():
        values = [None] * world_size()
        dist.all_gather_object(values, value)
        if len(set(values)) > 1:
            raise ValueError(f"the processes differ in {what} ({values}): give all machines the same files")


def own_share(batch: Tensor) -> Tensor:
    """This process's part of a batch that all processes know: every world_size-th row."""
    return batch[rank() :: world_size()]


def average_gradients(model: nn.Module) -> None:
    """Replace each gradient by its mean over the processes.

    DistributedDataParallel would do this too, but it does not support the double backward pass of a gradient penalty.
    """
    if dist.is_initialized():
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= world_size()
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def average_buffers(model: nn.Module) -> None:
    """Replace each floating-point buffer (batch-norm statistics) by its mean over the processes."""
    if dist.is_initialized():
        for buffer in model.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= world_size()
