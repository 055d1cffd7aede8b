"""Every graph at hand through every format: `python -m tests.corpus --all`."""
