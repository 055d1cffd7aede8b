"""The libraries that passes are made of log for their own users; ours read records and warnings."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from threading import Lock

_LIBRARIES = ("onnx_ir", "onnxscript")


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' log lines from the handlers of the calling program, unless ONNXQ_DEBUG is set.

    Handlers on a library's own logger still get them. Threads may be within at the same time.
    """
    if os.environ.get("ONNXQ_DEBUG"):
        yield
        return
    _GATE.close()
    try:
        yield
    finally:
        _GATE.open()


class _Gate:
    """Shut as long as anybody is within; then as it was."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._within = 0
        self._before: dict[str, bool] = {}
        self._nowhere = logging.NullHandler()  # else lines without a handler go to stderr

    def close(self) -> None:
        with self._lock:
            for name in _LIBRARIES if not self._within else ():
                logger = logging.getLogger(name)
                self._before[name], logger.propagate = logger.propagate, False
                logger.addHandler(self._nowhere)
            self._within += 1

    def open(self) -> None:
        with self._lock:
            self._within -= 1
            for name in _LIBRARIES if not self._within else ():
                logger = logging.getLogger(name)
                logger.propagate = self._before[name]
                logger.removeHandler(self._nowhere)


_GATE = _Gate()
