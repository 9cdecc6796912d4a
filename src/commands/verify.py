"""`python -m src verify`: measure the published models again and compare with the recorded numbers."""

import argparse

from src.errors import UserError


class VerificationError(UserError):
    """A measured value differs from the recorded one by more than its metric's tolerance."""


def build_parser(program: str) -> argparse.ArgumentParser:
    """The parser of the command, which has no options."""
    parser = argparse.ArgumentParser(
        prog=program, description="Measure the published models again and compare with the recorded numbers."
    )
    parser.set_defaults(handler=verify)
    return parser


def verify(_: argparse.Namespace) -> None:
    """Print each recorded value and its new measurement.

    Other processors round differently: a few pixels change by one grey level. Each metric's tolerance allows for that.

    Raises:
        VerificationError: a difference exceeds the tolerance.
        DataError: a data set is not available.
    """
    from src.audio import evaluation as audio_evaluation
    from src.image import evaluation as image_evaluation

    wrong = []
    for remeasure in (image_evaluation.remeasure, audio_evaluation.remeasure):
        for name, metric, recorded, measured in remeasure():
            agrees = abs(measured - recorded) <= metric.tolerance
            print(
                f"{name:28} recorded {recorded:9.4f}   measured {measured:9.4f}   {'agrees' if agrees else 'DIFFERS'}"
            )
            wrong += [] if agrees else [f"{name} (tolerance {metric.tolerance:g})"]
    if wrong:
        raise VerificationError(f"not as recorded: {', '.join(wrong)}")
