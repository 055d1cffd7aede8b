"""Tables of the command line: a header, no frames, long cells folded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> Table:
    """Return a table; a column whose name ends in `>` is set to the right, without the sign."""
    made = Table(box=None, header_style="bold", title=title, title_justify="left", title_style="bold", pad_edge=False)
    for column in columns:
        name = column.removesuffix(">")
        made.add_column(name, justify="left" if name == column else "right", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else str(cell) for cell in row))
    return made
