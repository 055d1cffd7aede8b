"""Footprint: what loading and running a model adds to a process's memory, measured in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from onnxq.errors import ModelError
from onnxq.runtime.session import CPU, onnxruntime, open_session

if TYPE_CHECKING:
    import numpy as np

_RUNS = 3
_STATUS = Path("/proc/self/status")


def footprint(
    path: Path, feeds: Mapping[str, np.ndarray], *, threads: int = 1, providers: Sequence[str] = CPU
) -> tuple[float, int | None]:
    """Return the seconds that loading took, and the bytes that loading and running added at their peak.

    Args:
        path: the model.
        feeds: an array for each input.
        threads: see `open_session`.
        providers: see `open_session`.

    Returns:
        Seconds, and bytes; None where the system does not report it (anything except Linux).

    Raises:
        ModelError: the runtime cannot load or run the model, or the process died of it.
    """
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, path, dict(feeds), threads, tuple(providers)).result()
        except BrokenProcessPool:
            raise ModelError(f"'{path}': the process that ran it died; it may need more memory than there is") from None


def _measure(
    path: Path, feeds: dict[str, np.ndarray], threads: int, providers: tuple[str, ...]
) -> tuple[float, int | None]:
    onnxruntime()  # its own memory does not count
    before, began = _kilobytes("VmRSS"), perf_counter()
    session = open_session(path, threads=threads, providers=providers)
    seconds = perf_counter() - began
    for _ in range(_RUNS):
        session.run(feeds)
    # Not `resource.getrusage`: its peak is inherited from the parent process.
    peak = _kilobytes("VmHWM")
    return seconds, None if before is None or peak is None else 1024 * max(peak - before, 0)


def _kilobytes(field: str) -> int | None:
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)
