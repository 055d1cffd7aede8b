"""Room: what several runs may take together, given back bit by bit as their arrays are done with."""

from __future__ import annotations

import threading


class Room:
    """Bytes shared by threads. Whoever wants more than is free waits, unless nobody else is in."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._changed = threading.Condition()

    def enter(self, wanted: int) -> None:
        """Take `wanted` bytes."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + wanted <= self._size)
            self._used += wanted

    def leave(self, given: int) -> None:
        """Give some of them back."""
        with self._changed:
            self._used -= given
            self._changed.notify_all()
