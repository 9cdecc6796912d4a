"""Errors meant for the user. Each message names the fault, its place and the remedy.

`cli.main` prints these as one line. Every other exception is a bug and keeps its traceback.
"""


class UserError(Exception):
    """Base class of the errors that become one line."""


class UsageError(UserError, ValueError):
    """An argument or a setting is out of range, or the requested output already exists."""


class DataError(UserError, RuntimeError):
    """A data file is missing, damaged, or of another kind than its name says."""


class CheckpointError(UserError, RuntimeError):
    """A model, training state, log or metrics file is missing, damaged, or belongs to something else."""


class OutputError(UserError, OSError):
    """A file cannot be written."""


class DownloadError(UserError, OSError):
    """A download failed at every address."""
