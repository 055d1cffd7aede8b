"""Engines: who does the work. Results come back in the order of the work, whoever was faster."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from onnxq.runtime.taps import Taps
from onnxq.stages.calibrate.observe import Options, Room, Seen, Work, observe_work


class Engine(Protocol):
    """Observes work after work."""

    def observe(self, works: Iterable[Work]) -> Iterator[tuple[Work, Seen]]:
        """Yield each work with what was seen, in order; `works` is read in the caller's thread, a little ahead."""
        ...


class Lanes:
    """Threads of this process: while one counts what its run has left, another runs the model."""

    def __init__(self, taps: Taps, options: Options, *, lanes: int, room: int) -> None:
        self._taps = taps
        self._options = options
        self._lanes = lanes
        self._room = room

    def observe(self, works: Iterable[Work]) -> Iterator[tuple[Work, Seen]]:
        """See `Engine`."""
        stop, room = threading.Event(), Room(self._room)
        with ThreadPoolExecutor(self._lanes, thread_name_prefix="calibrate") as pool:

            def submit(work: Work) -> Future[Seen]:
                return pool.submit(observe_work, self._taps, work, self._options, room=room, stop=stop.is_set)

            try:
                yield from in_order(submit, works, 2 * self._lanes)
            finally:
                stop.set()  # after an error or Ctrl-C, wait for the runs under way only


def in_order(submit: Callable[[Work], Future[Seen]], works: Iterable[Work], window: int) -> Iterator[tuple[Work, Seen]]:
    """Submit work, at most `window` ahead of what was collected, and yield the results in order."""
    pending: deque[tuple[Work, Future[Seen]]] = deque()
    try:
        for work in works:
            pending.append((work, submit(work)))
            if len(pending) >= window:
                done, future = pending.popleft()
                yield done, future.result()
        while pending:
            done, future = pending.popleft()
            yield done, future.result()
    finally:
        for _, future in pending:
            future.cancel()
