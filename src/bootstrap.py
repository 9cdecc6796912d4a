"""From a machine with only Python to a finished job: `python -m src.bootstrap notebooks` or `... tests`.

Creates the virtual environment .venv, installs the missing packages there, and runs the job in it. Uses the standard
library only, because nothing else is installed yet.
"""

import hashlib
import os
import re
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv"
NOTEBOOKS = ("01_img_generation.ipynb", "02_audio_regeneration.ipynb")
OLDEST, NEWEST = (3, 11), (3, 13)  # versions of Python on which the tests were run
JOBS = {
    "notebooks": ("requirements.txt",),
    "tests": ("requirements.txt", "requirements-dev.txt"),
}


def main(arguments: list[str]) -> int:
    """Run one job. Returns the exit status: 0, 1 after one line on standard error, or 2 for wrong usage."""
    if len(arguments) != 1 or arguments[0] not in JOBS:
        print(f"usage: python -m src.bootstrap {'|'.join(JOBS)}", file=sys.stderr)
        return 2
    if not OLDEST <= sys.version_info[:2] <= NEWEST:  # another Python can run this file, and gets a clear message
        supported = " to ".join(f"{major}.{minor}" for major, minor in (OLDEST, NEWEST))
        print(
            f"error: Python {sys.version.split()[0]} is not supported: use Python {supported}, for example "
            f"python3.{NEWEST[1]} -m src.bootstrap {arguments[0]}",
            file=sys.stderr,
        )
        return 1
    job = arguments[0]
    try:
        python = prepare_environment(JOBS[job])
        run_notebooks(python) if job == "notebooks" else run(python, "-m", "pytest", "-q")
    except subprocess.CalledProcessError as error:
        print(f"error: {' '.join(map(str, error.cmd))} ended with status {error.returncode}", file=sys.stderr)
        if "ensurepip" in error.cmd:
            print(
                "this Python cannot make virtual environments: on Debian or Ubuntu, install python3-venv",
                file=sys.stderr,
            )
        return 1
    return 0


def prepare_environment(requirements: tuple[str, ...]) -> Path:
    """Create .venv and install `requirements`, unless that is done already. Returns the environment's Python.

    An existing .venv is never emptied: pip is added if it lacks pip, and a folder of something else ends the program.
    """
    python = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = ENVIRONMENT / f"installed-{requirements[-1]}"
    wanted = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in requirements)).hexdigest()
    if not python.is_file():
        if ENVIRONMENT.is_dir() and any(ENVIRONMENT.iterdir()):
            raise SystemExit(f"error: {ENVIRONMENT.name} is no virtual environment of this system: move it elsewhere")
        print(f"creating {ENVIRONMENT.name}", flush=True)
        venv.create(ENVIRONMENT.resolve(), with_pip=True)
    elif subprocess.run((python, "-m", "pip", "--version"), capture_output=True).returncode:
        print(f"adding pip to {ENVIRONMENT.name}", flush=True)
        run(python, "-m", "ensurepip")
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"installing {requirements[-1]}: several GB with torch, minutes on a fast connection", flush=True)
        run(python, "-m", "pip", "install", "-q", "-r", requirements[-1])
        stamp.write_text(wanted)
    return python


def install_missing() -> None:
    """Install the packages of requirements.txt that the running Python lacks, and change no other."""
    missing = []
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        requirement = line.split("#")[0].strip()
        if requirement:
            try:
                version(re.split(r"[<>=!~ ]", requirement)[0])
            except PackageNotFoundError:
                missing.append(requirement)
    if missing:
        print("installing", *missing, flush=True)
        run(Path(sys.executable), "-m", "pip", "install", "-q", *missing)


def run_notebooks(python: Path) -> None:
    """Execute the notebooks in the quick profile and save them as HTML pages; the notebooks stay unchanged."""
    output = ROOT / "metrics" / "quick"
    environment = {**os.environ, "PROFILE": "quick"}
    for notebook in NOTEBOOKS:
        print(f"running {notebook} in the quick profile", flush=True)
        command = (python, "-m", "nbconvert", "--execute", "--to", "html", "--output-dir", output, notebook)
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        print(f"wrote {(output / notebook).relative_to(ROOT).with_suffix('.html').as_posix()}", flush=True)


def run(python: Path, *arguments: str) -> None:
    """Run `python` with `arguments` in the repository. Raises CalledProcessError if it fails."""
    subprocess.run((python, *arguments), cwd=ROOT, check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
