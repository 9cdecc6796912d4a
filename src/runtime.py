"""Device, precision and random streams of a computation, and the description of the machine."""

import ctypes
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch

from src.config import check_seed


def device() -> torch.device:
    """This process's accelerator if there is one, else the CPU.

    Several processes on one machine share the CPU unless there is a GPU for each.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if torch.cuda.device_count() >= processes:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("mps" if torch.backends.mps.is_available() and processes == 1 else "cpu")


def has_fast_bfloat16(device: torch.device) -> bool:
    """True if `device` computes bfloat16 in hardware. Emulated bfloat16 is many times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(device: torch.device) -> AbstractContextManager:
    """Mixed precision for training: bfloat16 if it is fast on `device`, else float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_fast_bfloat16(device))


def keep_freed_memory() -> None:
    """Make Linux's allocator keep large freed blocks for the next tensor instead of returning them to the system.

    Requesting them again took half of the time of reconstructing a recording. No effect on other systems.
    """
    _set_allocator(mmap_max=0, mmap_threshold=2**25, trim_threshold=2**31 - 1)


@contextmanager
def little_memory() -> Iterator[Callable[[], None]]:
    """The opposite of `keep_freed_memory`, for long recordings, whose blocks would fragment what is kept. It costs a
    fifth of the time. Call the function that it gives after each block: it returns what small blocks left."""
    _set_allocator(mmap_max=2**16, mmap_threshold=2**23, trim_threshold=2**20)
    try:
        yield _return_freed_memory
    finally:
        keep_freed_memory()


def _set_allocator(mmap_max: int, mmap_threshold: int, trim_threshold: int) -> None:
    """Set glibc's malloc: the number of blocks that are mapped one by one and returned when freed, their least size in
    bytes, and the free bytes at the heap's end that are returned."""
    parameters = {-4: mmap_max, -3: mmap_threshold, -1: trim_threshold}  # numbers of mallopt(3)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        for number, value in parameters.items():
            libc.mallopt(number, value)
    _return_freed_memory()


def _return_freed_memory() -> None:
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def random_stream(*keys: int) -> torch.Generator:
    """A CPU random generator seeded by all of `keys`, for example (seed, epoch).

    Drawing each epoch's batches and noise from (seed, epoch) makes resuming exact without saving any random state.
    Different keys give different streams except by chance: torch seeds its CPU generator with 32 bits.

    Raises:
        UsageError: the first key, the seed, is out of range.
    """
    check_seed(keys[0])
    state = np.random.SeedSequence(keys).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global random streams; afterwards they go on as before, on the CPU and on every GPU.

    Raises:
        UsageError: `seed` is out of range.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def describe_machine() -> dict:
    """Processor, threads, training precision and package versions, for the protocol of a measurement."""
    current = device()
    packages = ("torch", "torchvision", "torchaudio", "torchmetrics", "numpy", "av", "soxr", "zimtohrli")
    return {
        "processor": torch.cuda.get_device_name(current) if current.type == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "training_precision": "bfloat16" if has_fast_bfloat16(current) else "float32",
        "python": platform.python_version(),
        "packages": {name: installed for name in packages if (installed := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # zimtohrli has no wheels for macOS
        return None


def cpu_name() -> str:
    """The processor's model name, for example 'Intel(R) Xeon(R) Processor'."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
