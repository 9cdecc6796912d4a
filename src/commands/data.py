"""`python -m src data`: fetch or find the data sets."""

import argparse

from src import paths
from src.config import SPLITS, AudioConfig


def build_parser(program: str) -> argparse.ArgumentParser:
    """The parser of the command, which has no options."""
    parser = argparse.ArgumentParser(
        prog=program, description="Fetch the data sets or find them; print their source, place and size."
    )
    parser.set_defaults(handler=find_data)
    return parser


def find_data(_: argparse.Namespace) -> None:
    """Fetch both data sets or find them, print their size, and write the example stems."""
    from src.audio.data import load_musdb18, write_examples
    from src.image.data import load_mnist

    digits = {split: load_mnist(split) for split in SPLITS}
    for split, part in digits.items():
        print(f"{part.source:15} {split:10} {len(part):6,} digits of 28 x 28 pixels")
    tracks = {split: load_musdb18(split, AudioConfig().sample_rate) for split in SPLITS}
    for split, part in tracks.items():
        minutes = sum(stems.shape[-1] for stems in part.waveforms) / part.sample_rate / 60
        print(f"{part.source:15} {split:10} {len(part):6,} tracks of 4 stems, {minutes:.1f} minutes")
    for part, folder in ((digits["test"], paths.MNIST), (tracks["test"], paths.MUSDB18)):
        if part.complete:
            print(f"{part.source} is in {paths.relative(folder)}")
    examples = write_examples(tracks["test"])
    print(f"{len(examples)} stems to try things on are in {paths.relative(examples[0].parent)}")
