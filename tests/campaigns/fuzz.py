"""Open damaged files: python -m tests.campaigns.fuzz [--only NUMBER]

Small valid files of every kind that the program reads are damaged at random, from a fixed seed: 2,000 sound files of
eight formats, and 1,000 training states, published models and MNIST files. Each is opened as a user's file would be, by
one of two worker processes, which is replaced when it dies, or when a file takes longer than 10 s; a worker may
allocate 1 GiB beyond its start. The outcomes are

    read, read_with_warning    sound, a network or digits
    refused                    an error of src.errors, of one line
    traceback                  any other exception, or a message of several lines
    crash, hang                the worker died, or took longer than 10 s
    memory                     an allocation beyond the limit, or a size too large for FFmpeg or PyTorch to allocate

of which the last four are faults of the program. The counts go to fuzz.json beside this file, with the numbers of the
files that show a fault; `--only NUMBER` opens one file again and prints the outcome and the message. The campaign takes
about 15 seconds on two cores.

MNIST files are opened with the checksums of the damaged files in place of those of MNIST, which refuse every damage, so
that the checks behind them are reached.
"""

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import random
import resource
import struct
import tempfile
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import av
import numpy as np
import safetensors.torch
import soundfile
import torch

from src import checkpoints, files, runtime
from src.audio import sound_files, vae
from src.audio import training as audio_training
from src.config import AudioConfig, ImageConfig
from src.errors import UserError
from src.image import data, dcgan
from src.image import training as image_training

SEED = 0
SOUND_FILES, OTHER_FILES = 2000, 1000
WORKERS = 2
SECONDS = 10  # a file may take
MEMORY = 2**30  # bytes that a worker may allocate beyond its start
START = 120  # seconds within which a worker starts
RESULT = Path(__file__).with_suffix(".json")
OUTCOMES = ("read", "read_with_warning", "refused", "traceback", "crash", "hang", "memory")
FAULTS = OUTCOMES[3:]

SOUNDS = {  # codec and sample rate in Hz for each suffix
    "wav": ("pcm_s16le", 22_050),
    "flac": ("flac", 44_100),
    "ogg": ("vorbis", 44_100),
    "opus": ("libopus", 48_000),
    "mp3": ("libmp3lame", 44_100),
    "m4a": ("aac", 44_100),
    "aiff": ("pcm_s16be", 44_100),
    "mkv": ("libopus", 48_000),
}
OTHERS = ("DCGAN.pt", "VAE.pt", "DCGAN.safetensors", "VAE.safetensors", "IDX.gz", "IDX")
SMALL_IMAGE = ImageConfig(latent_dim=2, generator_width=1, discriminator_width=1)
SMALL_AUDIO = AudioConfig(mel_bands=8, latent_dim=2, mel_channels=1, mel_hidden=2, fine_channels=1)
DIGITS = 10  # images in the small MNIST


# --- valid files ---


def valid_files(folder: Path) -> dict[str, list[bytes]]:
    """The contents of the valid files of each kind: two of each, the same in every run."""
    contents = {suffix: [sound(folder / f"sound.{suffix}", channels) for channels in (1, 2)] for suffix in SOUNDS}
    for network, training, config in (("DCGAN", image_training, SMALL_IMAGE), ("VAE", audio_training, SMALL_AUDIO)):
        pairs = [state_and_model(training, config, seed) for seed in (0, 1)]
        contents[f"{network}.pt"], contents[f"{network}.safetensors"] = (
            list(kind) for kind in zip(*pairs, strict=True)
        )
    numbers = np.random.default_rng(SEED)
    unpacked = [
        struct.pack(">4I", 0x0803, DIGITS, 28, 28) + numbers.integers(0, 256, DIGITS * 28**2, np.uint8).tobytes(),
        struct.pack(">2I", 0x0801, DIGITS) + numbers.integers(0, 10, DIGITS, np.uint8).tobytes(),
    ]
    return contents | {"IDX": unpacked, "IDX.gz": [gzip.compress(content, mtime=0) for content in unpacked]}


def sound(path: Path, channels: int) -> bytes:
    """A second of a tone with noise."""
    codec, rate = SOUNDS[path.suffix[1:]]
    noise = np.random.default_rng(SEED).standard_normal((rate, channels))
    wave = 0.2 * np.sin(np.arange(rate) * 2 * np.pi * 440 / rate)[:, None] + 0.02 * noise
    if codec == "vorbis":  # by libsndfile, because FFmpeg's encoder knows stereo alone
        soundfile.write(path, wave, rate, format="OGG")
        return with_fixed_serial(path.read_bytes())
    layout = ("mono", "stereo")[channels - 1]
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:  # no random identifiers
        stream = container.add_stream(codec, rate=rate, layout=layout)
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        frame = av.AudioFrame.from_ndarray((wave * 2**15).astype(np.int16).reshape(1, -1), "s16", layout)
        frame.sample_rate = rate
        for part in (frame, None):
            container.mux(stream.encode(part))
    return path.read_bytes()


def with_fixed_serial(content: bytes) -> bytes:
    """An Ogg file with another serial number: libsndfile draws it from the clock. Each page has it and a checksum."""
    content, page = bytearray(content), 0
    while page < len(content):
        segments = content[page + 26]
        end = page + 27 + segments + sum(content[page + 27 : page + 27 + segments])
        content[page + 14 : page + 18] = (1).to_bytes(4, "little")
        content[page + 22 : page + 26] = bytes(4)
        checksum = 0
        for byte in content[page:end]:
            checksum ^= byte << 24
            for _ in range(8):
                checksum = checksum << 1 ^ (0x1_04C1_1DB7 if checksum >> 31 else 0)
        content[page + 22 : page + 26] = checksum.to_bytes(4, "little")
        page = end
    return bytes(content)


def state_and_model(training, config, seed: int) -> tuple[bytes, bytes]:
    """The training state and the published model of a small run after one step.

    Their bytes are written here, because the files of `checkpoints` hold a random name and an order that varies.
    """
    torch.manual_seed(seed)
    run = training.start(config)
    for network in run.parts(torch.nn.Module):
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter)
            parameter.grad = torch.ones_like(parameter)
    for optimiser in run.parts(torch.optim.Optimizer):
        optimiser.step()
    state = io.BytesIO()
    torch.save(run.state_dict() | {"data": "noise"}, state)
    weights = {name: tensor.contiguous() for name, tensor in run.average.state_dict().items()}
    return state.getvalue(), safetensors.torch.save(
        weights, {"description": json.dumps({"config": asdict(run.config)})}
    )


# --- damage: each function changes a content in place, at random; `join` appends another ---


def damaged(number: int, contents: dict[str, list[bytes]]) -> tuple[str, bytes]:
    """The kind and the content of damaged file `number`."""
    draw = random.Random(f"{SEED} {number}")
    kinds = tuple(SOUNDS) if number < SOUND_FILES else OTHERS
    kind = kinds[number % len(kinds)]
    first, second = contents[kind]
    content = bytearray(draw.choice((first, second)))
    original = bytes(content)
    for damage in draw.choices(DAMAGES, k=draw.choice((1, 1, 2, 3))):
        damage(content, draw, second if damage is join and draw.random() < 0.7 else original)
    return kind, bytes(content)


def flip_bits(content: bytearray, draw: random.Random, _) -> None:
    for place in draw.choices(range(len(content)), k=draw.choice((1, 1, 8, 100))) if content else ():
        content[place] ^= 1 << draw.randrange(8)


def overwrite(content: bytearray, draw: random.Random, _) -> None:
    block = block_of(content, draw)
    content[block] = draw.randbytes(block.stop - block.start)


def truncate(content: bytearray, draw: random.Random, _) -> None:
    del content[block_of(content, draw).start :]


def delete(content: bytearray, draw: random.Random, _) -> None:
    del content[block_of(content, draw)]


def duplicate(content: bytearray, draw: random.Random, _) -> None:
    block = block_of(content, draw)
    content[block.start : block.start] = content[block]


def zero(content: bytearray, draw: random.Random, _) -> None:
    block = block_of(content, draw)
    content[block] = bytes(block.stop - block.start)


def insert(content: bytearray, draw: random.Random, _) -> None:
    place = block_of(content, draw).start
    content[place:place] = draw.randbytes(draw.choice((1, 2, 4, 100, 5000)))


def change_header(content: bytearray, draw: random.Random, _) -> None:
    for _ in range(draw.choice((1, 2, 4, 8))):
        if content:
            content[edge(content, draw)] = draw.randrange(256)


def join(content: bytearray, draw: random.Random, other: bytes) -> None:
    content += other


def enlarge_length(content: bytearray, draw: random.Random, _) -> None:
    """Large values of 1 to 8 bytes near either end, where length fields are; or the digits of a number there."""
    place = edge(content, draw)
    digits = [i for i in range(place, min(place + 200, len(content))) if chr(content[i]).isdigit()]
    if digits and draw.random() < 0.3:
        content[digits[0]] = ord("9")
        return
    size = draw.choice((1, 2, 3, 4, 8))
    value = draw.choice((2 ** (8 * size) - 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size - 4)))
    content[place : place + size] = value.to_bytes(size, draw.choice(("little", "big")))


DAMAGES = (
    flip_bits, overwrite, truncate, delete, duplicate, zero, insert, change_header, change_header, join,
    enlarge_length, enlarge_length,
)  # fmt: skip


def block_of(content: bytearray, draw: random.Random) -> slice:
    """A random part of the content."""
    begin = draw.randrange(len(content) + 1)
    length = draw.choice((1, 4, 64, 1000, len(content) // 4))
    return slice(begin, min(begin + length, len(content)))


def edge(content: bytearray, draw: random.Random) -> int:
    """A random place near the beginning, or near the end."""
    reach = min(len(content), draw.choice((64, 512, 4096)))
    place = draw.randrange(reach) if reach else 0
    return place if draw.random() < 0.75 else max(0, len(content) - 1 - place)


# --- opening ---


def open_file(kind: str, content: bytes, folder: Path) -> None:
    """Open damaged content as the program opens a user's file of this kind."""
    name, _, suffix = kind.rpartition(".")
    if kind.startswith("IDX"):
        open_digits(content, folder, kind)
        return
    path = folder / f"damaged.{suffix}"
    path.write_bytes(content)
    if kind in SOUNDS:
        sound_files.read_audio(path)
        return
    if suffix == "pt":
        checkpoints.load_state(path)
    {"DCGAN": dcgan, "VAE": vae}[name].load_model(path)


def open_digits(content: bytes, folder: Path, kind: str) -> None:
    """Read the content as MNIST's test images and as its test labels."""
    refusals = []
    for name, shape in (("t10k-images-idx3-ubyte.gz", (28, 28)), ("t10k-labels-idx1-ubyte.gz", ())):
        (folder / name.removesuffix("" if kind == "IDX.gz" else ".gz")).write_bytes(content)
        data.MD5[name] = data.UNPACKED_MD5[name] = hashlib.md5(content).hexdigest()
        try:
            data.read_idx(folder, name, shape)
        except UserError as error:
            refusals.append(error)
        for path in folder.glob("t10k*"):
            path.unlink()
    if len(refusals) == 2:  # no file is both
        raise refusals[0]


def outcome_of(kind: str, content: bytes, folder: Path) -> tuple[str, str]:
    """The outcome of opening a damaged file, and its message."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            open_file(kind, content, folder)
    except Exception as error:
        if "llocate memory" in traceback.format_exc() or isinstance(error, MemoryError):
            return "memory", traceback.format_exc()
        if isinstance(error, UserError) and len(str(error).splitlines()) == 1:
            return "refused", str(error)
        return "traceback", traceback.format_exc()
    return ("read_with_warning" if caught else "read"), "; ".join(str(warning.message) for warning in caught)


# --- workers ---


def work(pipe: Connection, contents: dict[str, list[bytes]]) -> None:
    """A worker: answers each number from the pipe with the outcome and the message of that damaged file."""
    torch.set_num_threads(1)
    runtime.device = lambda: torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        limit = int(status["VmData"].split()[0]) * 1024 + MEMORY
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        pipe.send("ready")
        with contextlib.suppress(EOFError):  # the end of the campaign
            while True:
                pipe.send(outcome_of(*damaged(pipe.recv(), contents), Path(folder)))


@dataclass
class Worker:
    """A worker process and this side of its pipe."""

    process: multiprocessing.Process
    pipe: Connection

    @classmethod
    def start(cls, contents: dict[str, list[bytes]]) -> "Worker":
        """A worker that is ready."""
        context = multiprocessing.get_context("spawn")
        pipe, other = context.Pipe()
        process = context.Process(target=work, args=(other, contents), daemon=True)
        process.start()
        other.close()
        if not pipe.poll(START) or pipe.recv() != "ready":
            raise RuntimeError("a worker does not start")
        return cls(process, pipe)

    def open(self, number: int) -> tuple[str, str]:
        """Outcome and message of a damaged file. After a crash or a hang, this worker is dead."""
        self.pipe.send(number)
        if not self.pipe.poll(SECONDS):
            self.process.kill()
            return "hang", f"it took longer than {SECONDS} s"
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            return "crash", f"the worker's exit code is {self.process.exitcode}"

    def stop(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.join()


def open_all(numbers: range, contents: dict[str, list[bytes]]) -> list[tuple[int, str, str]]:
    """Number, outcome and message of damaged files, opened by one worker and those that replace it."""
    results = []
    worker = Worker.start(contents)
    for number in numbers:
        results.append((number, *worker.open(number)))
        if results[-1][1] in ("crash", "hang"):
            worker.stop()
            worker = Worker.start(contents)
    worker.stop()
    return results


def campaign(contents: dict[str, list[bytes]]) -> dict:
    """Open all damaged files. Returns the counts."""
    began = time.monotonic()
    with ThreadPoolExecutor(WORKERS) as pool:
        shares = [range(first, SOUND_FILES + OTHER_FILES, WORKERS) for first in range(WORKERS)]
        results = [row for rows in pool.map(open_all, shares, [contents] * WORKERS) for row in rows]
    counts = {kind: dict.fromkeys(OUTCOMES, 0) for kind in ("all", *SOUNDS, *OTHERS)}
    for number, outcome, message in sorted(results):
        kind, _ = damaged(number, contents)
        counts["all"][outcome] += 1
        counts[kind][outcome] += 1
        if outcome in FAULTS:
            print(f"{number} ({kind}): {outcome}\n{message}")
    deaths = sum(outcome in ("crash", "hang") for _, outcome, _ in results)
    return {
        "seed": SEED,
        "files": len(results),
        "workers": WORKERS,
        "seconds_allowed": SECONDS,
        "bytes_allowed": MEMORY,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "worker_deaths": deaths,
        "outcomes": counts,
        "files_that_show_faults": sorted(number for number, outcome, _ in results if outcome in FAULTS),
    }


def main() -> None:
    """Run the campaign and record its counts, or open one of its files."""
    parser = argparse.ArgumentParser(description="Open damaged files.")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="open this one and print the outcome")
    only = parser.parse_args().only
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers
    torch.set_num_threads(1)
    runtime.device = lambda: torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        contents = valid_files(Path(folder))
    if only is not None:
        [(_, outcome, message)] = open_all(range(only, only + 1), contents)
        print(f"{only} ({damaged(only, contents)[0]}): {outcome}\n{message}")
        return
    result = campaign(contents)
    files.save_json(RESULT, result)
    print(json.dumps(result["outcomes"]["all"], indent=2))


if __name__ == "__main__":
    main()
