"""Random valid graphs through every format: `python -m tests.fuzz --graphs 2000`."""
