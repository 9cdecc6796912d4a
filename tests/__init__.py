"""A package, so that `python -m tests...` and `from tests...` find this folder before another package of that name."""
