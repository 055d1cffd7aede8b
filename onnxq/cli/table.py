"""Tables of the command line, a header and no frames, long cells folded; and what stands in them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> Table:
    """Return a table; a column whose name ends in `>` is set to the right, without the sign."""
    result = Table(box=None, header_style="bold", title=title, title_justify="left", title_style="bold", pad_edge=False)
    for column in columns:
        name = column.removesuffix(">")
        result.add_column(name, justify="left" if name == column else "right", overflow="fold")
    for row in rows:
        result.add_row(*(cell if isinstance(cell, Text) else str(cell) for cell in row))
    return result


def decibels(value: float) -> str:
    """Return a figure in dB: "exact" for infinity, "broken" for minus infinity, "-" where nothing is known."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "exact" if value > 0 else "broken"
    return f"{value:.1f} dB"


def count(number: int, what: str) -> str:
    """Return a number of things: `1 node`, `2 nodes`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def threads(number: int) -> str:
    """Return a number of threads, 0 for all cores, in words."""
    return "all cores" if number == 0 else count(number, "thread")
