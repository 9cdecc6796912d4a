"""`python -m src verify`: measure the published models again and compare with the recorded numbers."""

import argparse
from itertools import chain

from src.errors import UserError


class VerificationError(UserError):
    """A measured value differs from the recorded one by more than is allowed."""


def build_parser(program: str) -> argparse.ArgumentParser:
    """The parser of the command, which has no options."""
    parser = argparse.ArgumentParser(
        prog=program, description="Measure the published models again and compare with the recorded numbers."
    )
    parser.set_defaults(handler=verify)
    return parser


def verify(_: argparse.Namespace) -> None:
    """Print each recorded value and its new measurement.

    Other processors round differently: a few pixels change by one grey level. The allowed difference is one standard
    deviation over seeds for digits and generated stems, and each metric's tolerance for reconstructed stems.

    Raises:
        VerificationError: a difference exceeds the tolerance.
        DataError: a data set is not available, or is not the one that the recorded numbers were measured on.
    """
    from src.audio import evaluation as audio_evaluation
    from src.audio import flow_evaluation
    from src.image import evaluation as image_evaluation

    wrong = []
    stems = audio_evaluation.remeasure()  # before the digits are measured, which takes minutes: it checks its data
    for name, recorded, measured, allowed in chain(image_evaluation.remeasure(), stems, flow_evaluation.remeasure()):
        agrees = abs(measured - recorded) <= allowed
        print(f"{name:28} recorded {recorded:9.4g}   measured {measured:9.4g}   {'agrees' if agrees else 'DIFFERS'}")
        wrong += [] if agrees else [f"{name} (allowed difference {allowed:.2g})"]
    if wrong:
        raise VerificationError(f"not as recorded: {', '.join(wrong)}")
