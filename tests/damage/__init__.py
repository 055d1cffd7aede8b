"""Truncated and altered model files: `python -m tests.damage --files 500`."""
