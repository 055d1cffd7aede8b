"""Where text goes: results to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from onnxq.errors import ModelError, OnnxqWarning

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


# Tables meant for a file or another program are not folded.
_WIDE = 1000
_NARROW = 160


def console(stream: TextIO) -> Console:
    """Return a rich console on `stream` that prints brackets in names as they are and writes out control characters."""
    from onnxq.cli.safe_console import HarmlessConsole

    return HarmlessConsole(file=stream, markup=False, highlight=False)


def show(*parts: RenderableType) -> None:
    """Print to stdout: for people if that is a terminal, else unfolded, without trailing blanks."""
    if sys.stdout.isatty():
        for part in parts:
            console(sys.stdout).print(part)
        return
    from onnxq.cli.safe_console import HarmlessConsole

    buffer = io.StringIO()
    plain = HarmlessConsole(file=buffer, markup=False, highlight=False, width=_WIDE, color_system=None)
    for part in parts:
        plain.print(part)
    show_text("".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines()))


def is_narrow() -> bool:
    """Return whether stdout is a terminal too narrow for tables of long names."""
    return sys.stdout.isatty() and console(sys.stdout).width < _NARROW


def show_text(text: str) -> None:
    """Print text to stdout as it is.

    Raises:
        ModelError: it cannot be written.
        SystemExit: the reader went away (`onnxq plan ... | head`); code 141, as for any Unix program.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _let_go()
        raise SystemExit(141) from None
    except OSError as error:
        _let_go()
        raise ModelError(f"standard output cannot be written: {error.strerror}; free space, or redirect it") from None


def _let_go() -> None:
    """Send what stdout still holds nowhere; else the interpreter complains at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_json(data: Any) -> None:
    """Print plain data (`onnxq.types.plain_data.plain`) as JSON to stdout."""
    show_text(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def answer(result: Any, show_result: Callable[[], None], *, as_json: bool, quiet: bool, picture: Path | None) -> None:
    """Print the result of a measuring command, and its warnings.

    Args:
        result: a data type with `warnings`.
        show_result: prints it for people.
        as_json: print it as JSON instead.
        quiet: print the warnings only.
        picture: file that it was drawn in.
    """
    from onnxq.types.plain_data import plain

    if as_json:
        show_json(plain(result))
    elif not quiet:
        show_result()
        if picture is not None:
            show("", f"drawn in {picture}")
    warn(result.warnings)


def complain(message: str, *, title: str = "error") -> None:
    """Print one message to stderr, on one line however long it is, so that it can be searched for and copied."""
    from rich.text import Text

    style = {"error": "bold red", "warning": "bold yellow"}.get(title, "bold")
    text = Text.assemble((f"{title}:", style), " ", " ".join(message.split()))
    console(sys.stderr).print(text, soft_wrap=True)


def warn(texts: Iterable[str]) -> None:
    """Print warnings to stderr."""
    for text in texts:
        complain(text, title="warning")


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Show onnxq's warnings as messages, and other libraries' warnings and log lines only under ONNXQ_DEBUG=1."""

    def display(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, OnnxqWarning):
            complain(str(message), title="warning")
        else:
            plain(message, category, *place, **more)

    plain = warnings.showwarning
    with warnings.catch_warnings():
        warnings.showwarning = display
        if not os.environ.get("ONNXQ_DEBUG"):
            warnings.simplefilter("ignore")
            logging.getLogger().addHandler(logging.NullHandler())
        warnings.simplefilter("always", OnnxqWarning)
        yield
