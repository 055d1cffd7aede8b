"""Progress: what a long stage tells while it works; the command line draws it, everyone else may ignore it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Told what is going on. Calls come from one thread, in the order start, (advance | note)*, finish."""

    def start(self, total: int | None, description: str) -> None:
        """Begin work of `total` samples, None if that is not known."""
        ...

    def advance(self, n: int) -> None:
        """Tell that `n` more samples are done."""
        ...

    def note(self, text: str) -> None:
        """Tell something worth a line of its own."""
        ...

    def finish(self) -> None:
        """End; called once for every `start`, after failures too."""
        ...


class Silent:
    """A `Progress` that says nothing."""

    def start(self, total: int | None, description: str) -> None:
        """Do nothing."""

    def advance(self, n: int) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


@contextmanager
def step(progress: Progress, total: int | None, description: str) -> Iterator[None]:
    """Begin and end work of `total` samples around the block, after failures too."""
    progress.start(total, description)
    try:
        yield
    finally:
        progress.finish()
