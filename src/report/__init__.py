"""RESULTS.md and its figures, made from JSON files and saved pictures alone."""
