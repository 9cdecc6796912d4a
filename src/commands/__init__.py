"""One file for each command group: its parser, and beside it the handlers."""
