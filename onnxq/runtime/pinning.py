"""Pinning: a measurement keeps to as many cores as it has threads, so that the scheduler moves nothing around."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Keep this process, and threads that it starts meanwhile, to the first `threads` cores it may use; 0 for all.

    Does nothing where the system has no such call.
    """
    if threads == 0 or not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
