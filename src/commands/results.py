"""`python -m src results`: rebuild RESULTS.md, its figures and the model cards."""

import argparse

from src import paths


def build_parser(program: str) -> argparse.ArgumentParser:
    """The parser of the command, which has no options."""
    parser = argparse.ArgumentParser(
        prog=program, description="Rebuild RESULTS.md, its figures and the model cards from the metrics JSON."
    )
    parser.set_defaults(handler=write_results)
    return parser


def write_results(_: argparse.Namespace) -> None:
    """Write RESULTS.md, its figures and the model cards."""
    from src.report import results

    for path in results.write():
        print(f"wrote {paths.relative(path)}")
