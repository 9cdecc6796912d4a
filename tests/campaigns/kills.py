"""Kill training runs at random moments: python -m tests.campaigns.kills

For each half, small runs (tests/small_run.py: training, scoring, checkpoints, pictures) are killed by SIGKILL at
moments from a fixed seed and started again, until they have been killed 25 times. Each run that was finished after its
kills is compared with one that was never killed: the bits of all weights, the scores, the log and the names of the
files. The counts go to kills.json beside this file. It takes about 10 minutes on one core.
"""

import json
import random
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from tqdm import tqdm

from src import checkpoints, files, paths, training_loop
from tests import small_run

KILLS = 25
SEED = 0
EPOCHS = {"image": 60, "audio": 6}
RUN_PATHS = {"image": paths.ImagePaths, "audio": paths.AudioPaths}
RESULT = Path(__file__).with_suffix(".json")


def content(half: str, folder: Path) -> dict:
    """All that a finished run has written, without times."""
    run_paths = RUN_PATHS[half]("run", folder)
    state = checkpoints.load_state(checkpoints.states(run_paths)[0])
    weights, description = checkpoints.load_weights(run_paths.weights)
    history = training_loop.read_history(run_paths)
    tensors = {f"published {name}": tensor for name, tensor in weights.items()}
    for part in ("generator", "discriminator", "model", "average"):
        tensors |= {f"{part} {name}": tensor for name, tensor in state.get(part, {}).items()}
    return {
        "tensors": {name: tensor.numpy().tobytes() for name, tensor in tensors.items()},
        "published": without_times(description),
        "losses": [without_times(row) for row in history["training"]["losses"]],
        "scores": [without_times(row) for row in history["checkpoints"]],
        "files": sorted(
            str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".tmp"
        ),
    }


def without_times(row: dict) -> dict:
    return {name: value for name, value in row.items() if "seconds" not in name}


def campaign(half: str, root: Path) -> dict:
    """Kill runs of a half `KILLS` times. Returns the counts."""
    began = time.monotonic()
    if small_run.start(half, root / "whole", {"epochs": EPOCHS[half]}, stdout=subprocess.DEVNULL).wait() != 0:
        raise RuntimeError(f"the small run of the {half} half fails without any kill")
    duration = time.monotonic() - began
    expected = content(half, root / "whole")
    moments = random.Random(SEED)
    names = ("kills", "kills_before_the_first_checkpoint", "finished_runs", "equal_runs", "failed_resumes")
    counts = dict.fromkeys(names, 0)
    bar = tqdm(total=KILLS, desc=half, unit="kill")
    killed = True
    while counts["kills"] < KILLS or killed:  # and finish the last run
        folder = root / f"run {counts['finished_runs']}"
        killed = kill_once(half, folder, moments.uniform(0.2, 1.0) * duration, counts["kills"] < KILLS, counts)
        counts["kills"] += killed
        bar.update(killed)
        if not killed:
            counts["finished_runs"] += 1
            counts["equal_runs"] += content(half, folder) == expected
    return {**counts, "minutes": round((time.monotonic() - began) / 60, 1)}


def kill_once(half: str, folder: Path, delay: float, kill: bool, counts: dict) -> bool:
    """Go on with the run in `folder`, and kill it after `delay` seconds. False if it finished before."""
    process = small_run.start(half, folder, {"epochs": EPOCHS[half]}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, error = process.communicate(timeout=delay if kill else None)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        counts["kills_before_the_first_checkpoint"] += not checkpoints.states(RUN_PATHS[half]("run", folder))
        return True
    if process.returncode != 0:
        counts["failed_resumes"] += 1
        raise RuntimeError(f"{folder.name}, after {counts['kills']} kills, cannot go on:\n{error.decode()}")
    return False


def main() -> None:
    """Run the campaign of both halves and record its counts."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        results = {}
        for half in RUN_PATHS:
            (Path(folder) / half).mkdir()
            results[half] = campaign(half, Path(folder) / half)
    files.save_json(RESULT, {"seed": SEED, "epochs": EPOCHS, **results})
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
