"""A progress bar on stderr: samples done, rate, time left."""

from __future__ import annotations

import sys

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from onnxq.cli.terminal import console


def terminal_progress(*, quiet: bool = False) -> Bar | None:
    """Return what draws progress, None where nobody looks: stderr is not a terminal, or `quiet`."""
    return None if quiet or not sys.stderr.isatty() else Bar()


class Bar:
    """An `onnxq.progress.Progress` that draws; the bar vanishes when its stage is done."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def start(self, total: int | None, description: str) -> None:
        """Show a bar of `total` samples; for None, one that only moves."""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=console(sys.stderr),
            transient=True,
        )
        self._progress.add_task(description, total=total)
        self._progress.start()

    def advance(self, n: int) -> None:
        """Move the bar by `n` samples."""
        if self._progress is not None:
            self._progress.advance(self._progress.task_ids[0], n)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        (console(sys.stderr) if self._progress is None else self._progress.console).print(text)

    def finish(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class _Rate(ProgressColumn):
    """Samples a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.3g}/s")
