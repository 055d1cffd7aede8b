"""Where arrays that a model is given go when together they would fill the memory: a temporary file without a name."""

from __future__ import annotations

import mmap
import tempfile
from typing import IO, Any

import numpy as np
import numpy.typing as npt

_BUDGET = 1 << 27
_SMALL = 1 << 16
_CHUNK = 1 << 30
_PAGE = 4096


class Spill:
    """Keeps arrays in memory up to a budget, and those that follow in unnamed temporary files, memory-mapped.

    The files are gone with the last array that lies in them, also when the process is killed. Pages of theirs count
    little: the system writes them out and takes them back as it needs.
    """

    def __init__(self, budget: int = _BUDGET) -> None:
        """Take the number of bytes to keep in memory."""
        self._left = budget
        self._file: IO[bytes] | None = None
        self._map: mmap.mmap | None = None
        self._end = 0

    def keep(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return `array`, or a read-only one of the same content that lies in a file.

        Raises:
            OSError: no room for temporary files.
        """
        if array.nbytes < _SMALL or array.nbytes <= self._left:
            self._left -= array.nbytes
            return array
        file, mapped = self._room(array.nbytes)
        file.seek(self._end)
        file.write(np.ascontiguousarray(array).data.cast("B") if array.dtype.kind != "V" else array.tobytes())
        file.flush()
        start, self._end = self._end, -(-(self._end + array.nbytes) // _PAGE) * _PAGE
        return np.frombuffer(mapped, array.dtype, array.size, start).reshape(array.shape)

    def _room(self, size: int) -> tuple[IO[bytes], mmap.mmap]:
        """Return a file with room for `size` more bytes, and its mapping: one for many arrays, descriptors are few."""
        if self._file is None or self._map is None or self._end + size > len(self._map):
            self._file = tempfile.TemporaryFile(prefix="onnxq-")  # noqa: SIM115 - it lives as long as the arrays in it
            self._file.truncate(max(size, _CHUNK))  # a hole: takes no room until it is written
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            self._end = 0
        return self._file, self._map
