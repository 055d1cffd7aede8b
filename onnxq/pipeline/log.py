"""Log: what one call has to say while it is on its way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter

from onnxq.progress import Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    """Warnings, times and progress of one call; handed along, and only ever added to.

    Attributes:
        progress: receives what goes on, None for silence.
        warnings: for the report, in order. seconds: by stage.
    """

    progress: Progress | None = None
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def warn(self, *texts: str) -> None:
        """Add warnings."""
        self.warnings.extend(texts)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes to the stage's seconds."""
        start = perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - start

    @contextmanager
    def timed_as_one(self, stage: str) -> Iterator[None]:
        """Count the block as one stage, with all stages that run inside it."""
        before, start = dict(self.seconds), perf_counter()
        yield
        self.seconds.clear()
        self.seconds.update(before)
        self.seconds[stage] = perf_counter() - start

    def without_progress(self) -> Log:
        """Return this log, but silent about progress: of a loop, single drafts are not shown."""
        return replace(self, progress=None)
