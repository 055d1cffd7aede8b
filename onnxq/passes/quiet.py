"""The libraries that passes are made of tell their own users what they do; ours hear of it in records and warnings."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from threading import Lock

_LIBRARIES = ("onnx_ir", "onnxscript")
_lock = Lock()
_within = 0
_before: dict[str, bool] = {}


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' log lines from the handlers of the calling program, unless ONNXQ_DEBUG is set.

    Handlers on a library's own logger still get them. Threads may be within at the same time.
    """
    global _within
    if os.environ.get("ONNXQ_DEBUG"):
        yield
        return
    with _lock:
        for name in _LIBRARIES if not _within else ():
            logger = logging.getLogger(name)
            _before[name], logger.propagate = logger.propagate, False
            logger.addHandler(_NOWHERE)
        _within += 1
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            for name in _LIBRARIES if not _within else ():
                logging.getLogger(name).propagate = _before[name]
                logging.getLogger(name).removeHandler(_NOWHERE)


_NOWHERE = logging.NullHandler()
