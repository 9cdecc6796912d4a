"""The command line: `python -m src COMMAND ...`. A command's file is imported when the command is called."""

import argparse
import errno
import importlib
import io
import os
import re
import sys
import warnings
from itertools import pairwise

from src.errors import UsageError, UserError

PROGRAM = "python -m src"
COMMANDS = {  # name of the file in src/commands: help
    "data": "fetch the data sets or find them",
    "image": "the DCGAN on MNIST: train, evaluate, generate, interpolate ...",
    "audio": "the VAE of MUSDB18's stems: train, evaluate, reconstruct, generate, interpolate ...",
    "results": "rebuild RESULTS.md and its figures from the metrics JSON",
    "verify": "measure the published models again and compare with the recorded numbers",
}
FAILED, INTERRUPTED = 1, 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, or 1 (130 if interrupted) after one line on standard error.

    Only errors meant for the user become one line; any other exception is a bug and keeps its traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a console may lack a character of a file's name
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    name = build_parser().parse_args(arguments[:1]).command
    try:
        command = importlib.import_module(f"src.commands.{name}")
        options = command.build_parser(f"{PROGRAM} {name}").parse_args(arguments[1:])
        _refuse_empty(arguments)
        options.handler(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output, such as `head -1`, has ended
        _discard_output()
        return FAILED
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _discard_output()  # files report a full disk themselves, so this is the standard output
        print(f"error: the standard output cannot be written ({error.strerror})", file=sys.stderr)
        return FAILED
    return 0


def _refuse_empty(arguments: list[str]) -> None:
    """Raise UsageError if an argument is empty, as an unset variable of the shell makes it: a command would take it for
    one that was not given."""
    for before, argument in pairwise(["", *arguments]):
        if not argument or re.fullmatch("--[^=]+=", argument):
            option = argument[:-1] or before
            place = f"the value of {option}" if option.startswith("--") else "an argument"
            raise UsageError(f"{place} is empty: leave it out, or check the variable that it comes from")


def _discard_output() -> None:
    """Let Python's own flush at its end succeed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build_parser() -> argparse.ArgumentParser:
    """The root parser: names and help of the commands."""
    names = "\n".join(f"  {name:9} {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [-h] COMMAND ...",
        description="Generative models of digits and of music.",
        epilog=f"commands:\n{names}\n\nEach command has --help too.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of the commands below")
    return parser
