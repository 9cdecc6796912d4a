"""One file for each command group, with its parser and its handlers."""
