"""Kill runs at random moments and resume them: python -m tests.campaigns.kills

Small runs of each half (tests/small_run.py) are killed by SIGKILL, once or twice, at moments from a fixed seed, uniform
over the duration of a run that is never killed, and started again until they finish. Training includes the scores,
files and pictures of every checkpoint; `audio evaluate` resumes from its partial results. A finished run is compared
with the one that was never killed: the bits of all weights, the log without times, the published model, the pictures
and sounds, or the recorded scores.

`files.write_atomically` deletes the temporary files of killed writers when they are an hour old. Here they are made to
look as old as that after each kill, so that a finished run must have left none.

The counts so far go to kills.json beside this file after each run. It takes about 15 minutes on one core.
"""

import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from src import checkpoints, files, paths, training_loop
from tests import small_run

SEED = 0
ROUNDS = {"image": {"image": 25}, "audio": {"audio": 17, "audio-evaluate": 8}}  # of each half: runs to kill, by task
EPOCHS = {"image": 75, "audio": 4, "audio-evaluate": 4}
SECOND_KILL = 0.25  # share of the runs that are killed again after they have been resumed
PHASES = ("training", "scoring", "writing", "drawing", "evaluating")
COUNTS = ("killed_runs", "kills", "resumes", "equal", "different", "temporary_files_of_killed_writers",
          "temporary_files_after_the_end")  # fmt: skip
RESULT = Path(__file__).with_suffix(".json")


def start(task: str, folder: Path, **settings: int) -> subprocess.Popen:
    """A process that does the task in `folder`, from what it finds there. Returns when its imports are done.

    It writes its phases to a file beside `folder`, `phases_of`.
    """
    with open(phases_of(folder), "w") as output:
        process = small_run.start(task, folder, settings, stdout=output, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not phases_of(folder).stat().st_size:
        time.sleep(0.01)
    return process


def phases_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.txt")


def run_paths_of(task: str, folder: Path) -> paths.RunPaths:
    return (paths.ImagePaths if task == "image" else paths.AudioPaths)("run", folder)


def content(task: str, folder: Path) -> dict:
    """All that a finished run has written, without times."""
    run_paths = run_paths_of(task, folder)
    state = checkpoints.load_state(checkpoints.states(run_paths)[0])
    weights, description = checkpoints.load_weights(run_paths.weights)
    history = training_loop.read_history(run_paths)
    tensors = {f"published {name}": tensor for name, tensor in weights.items()}
    for part in ("generator", "discriminator", "model", "average"):
        tensors |= {f"{part} {name}": tensor for name, tensor in state.get(part, {}).items()}
    scores = files.load_json(run_paths.metrics) if run_paths.metrics.is_file() else {}
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {
        "tensors": {name: tensor.numpy().tobytes() for name, tensor in tensors.items()},
        "published": without_times(description),
        "losses": [without_times(row) for row in history["training"]["losses"]],
        "checkpoints": [without_times(row) for row in history["checkpoints"]],
        "scores": {name: part for name, part in scores.items() if name not in ("speed", "training", "checkpoints")},
        "files": sorted(str(path.relative_to(folder)) for path in found if path not in temporaries(folder)),
        "drawn": {path.name: path.read_bytes() for path in found if path.suffix in (".png", ".flac")},
    }


def without_times(row: dict) -> dict:
    return {name: value for name, value in row.items() if "seconds" not in name}


def temporaries(folder: Path) -> list[Path]:
    """The files that a killed `write_atomically` has left."""
    return list(folder.rglob("*".join(files.TEMPORARY)))


def campaign(task: str, rounds: int, root: Path) -> Iterator[dict]:
    """Kill `rounds` runs of a task. Yields the counts so far after each of them."""
    began = time.monotonic()
    whole = root / task
    if task == "audio-evaluate":
        shutil.copytree(root / "audio", whole)
    process = start(task, whole, epochs=EPOCHS[task])
    ready = time.monotonic()
    _, error = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{task} fails without any kill:\n{error}")
    duration, expected = time.monotonic() - ready, content(task, whole)
    moments, counts, phases = random.Random(f"{SEED} {task}"), Counter(), Counter()
    bar = tqdm(total=rounds, desc=task, unit="run")
    while counts["killed_runs"] < rounds:
        folder = root / f"{task} killed"
        if task == "audio-evaluate":
            shutil.copytree(root / "audio", folder)
        delays = [moments.uniform(0, duration) for _ in range(1 + (moments.random() < SECOND_KILL))]
        kills = kill_and_resume(task, folder, delays, counts, phases)
        if kills:  # else the run was faster than the one that was never killed
            counts["killed_runs"] += 1
            counts["equal" if content(task, folder) == expected else "different"] += 1
            counts["temporary_files_after_the_end"] += len(temporaries(folder))
            bar.update()
            yield {
                "planned_runs": rounds,
                **{name: counts[name] for name in COUNTS},
                "kills_by_phase": dict(sorted(phases.items())),
                "seconds_without_a_kill": round(duration, 1),
                "minutes": round((time.monotonic() - began) / 60, 1),
            }
        shutil.rmtree(folder)


def kill_and_resume(task: str, folder: Path, delays: list[float], counts: Counter, phases: Counter) -> int:
    """Start a run once for each delay in seconds, after which it is killed, and once more to its end. Returns the
    number of kills; it is smaller if the run was finished before."""
    kills = 0
    for delay in (*delays, None):
        process = start(task, folder, epochs=EPOCHS[task])
        counts["resumes"] += kills > 0
        try:
            _, error = process.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            phases[[line for line in phases_of(folder).read_text().splitlines() if line in PHASES][-1]] += 1
            counts["temporary_files_of_killed_writers"] += len(temporaries(folder))
            for path in temporaries(folder):
                os.utime(path, (0, time.time() - files.ABANDONED - 1))
            continue
        if process.returncode != 0:
            raise RuntimeError(f"{task} cannot go on after {counts['kills'] + kills} kills:\n{error}")
        break
    counts["kills"] += kills
    return kills


def main() -> None:
    """Run the campaign of both halves and record its counts."""
    torch.set_num_threads(1)
    results = {half: {} for half in ROUNDS}
    with tempfile.TemporaryDirectory() as folder:
        for half, tasks in ROUNDS.items():
            for task, rounds in tasks.items():
                for counts in campaign(task, rounds, Path(folder)):
                    results[half][task] = counts
                    files.save_json(RESULT, {"seed": SEED, "epochs": EPOCHS, **results})
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
