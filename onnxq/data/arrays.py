"""Arrays in .npy and .npz files, read row by row: a file may be larger than memory."""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from onnxq.errors import CalibrationError

_UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredArray:
    """An array in an open file, read from its beginning to its end.

    Attributes:
        key: its name in an .npz, "" for an .npy.
        shape: as stored.
        dtype: as stored.
        place: file and array, for messages.
        stream: where its values begin.
        fortran: whether the first axis is the fastest.
    """

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    place: str
    stream: IO[bytes]
    fortran: bool

    def read(self) -> npt.NDArray[Any]:
        """Return the whole array; only before any `rows`."""
        flat = self._take(int(np.prod(self.shape, dtype=np.int64)))
        return flat.reshape(self.shape[::-1]).T if self.fortran else flat.reshape(self.shape)

    def rows(self, size: int) -> Iterator[npt.NDArray[Any]]:
        """Yield the array `size` rows (entries of axis 0) at a time, the last time perhaps fewer."""
        if self.fortran:
            whole = self.read()
            yield from (whole[start : start + size] for start in range(0, self.shape[0], size))
            return
        row = int(np.prod(self.shape[1:], dtype=np.int64))
        for start in range(0, self.shape[0], size):
            count = min(size, self.shape[0] - start)
            yield self._take(count * row).reshape(count, *self.shape[1:])

    def _take(self, count: int) -> npt.NDArray[Any]:
        wanted = count * self.dtype.itemsize
        try:
            data = self.stream.read(wanted)
        except _UNREADABLE as error:
            raise _damaged(self.place, error) from error
        if len(data) < wanted:
            raise _damaged(self.place, "it ends too early")
        return np.frombuffer(data, dtype=self.dtype, count=count)


@contextlib.contextmanager
def open_arrays(path: Path) -> Iterator[list[StoredArray]]:
    """Open the arrays of an .npz (by key), or the one of an .npy (key ""), without reading their data.

    Raises:
        CalibrationError: the file is missing, damaged, or holds Python objects, which are never unpickled.
    """
    with contextlib.ExitStack() as stack:
        try:
            if path.suffix == ".npy":
                arrays = [_header("", stack.enter_context(path.open("rb")), str(path))]
            else:
                archive = stack.enter_context(zipfile.ZipFile(path))
                names = [name for name in archive.namelist() if name.endswith(".npy")]
                streams = {name.removesuffix(".npy"): stack.enter_context(archive.open(name)) for name in names}
                arrays = [_header(key, stream, f"{path}, array '{key}'") for key, stream in streams.items()]
        except FileNotFoundError as error:
            raise CalibrationError(f"no file '{path}'; check the path") from error
        except _UNREADABLE as error:
            raise _damaged(str(path), error) from error
        yield arrays


def file_digest(digest: Any, path: Path) -> None:
    """Feed the bytes of a file into `digest`."""
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise CalibrationError(f"cannot read '{path}': {error.strerror}; check that it is still there") from error


def files_digest(paths: list[Path]) -> str:
    """Return the sha256, as hex digits, of the names and bytes of some files; of the bytes alone for one file."""
    digest = hashlib.sha256()
    for path in paths:
        if len(paths) > 1:
            digest.update(path.name.encode("utf-8", "surrogatepass") + b"\0")
        file_digest(digest, path)
    return digest.hexdigest()


def _header(key: str, stream: IO[bytes], place: str) -> StoredArray:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"version {version} of the .npy format holds no plain arrays")
    if dtype.hasobject:
        raise CalibrationError(f"{place} holds Python objects, which are not loaded; save plain arrays of numbers")
    return StoredArray(key=key, shape=shape, dtype=dtype, place=place, stream=stream, fortran=fortran)


def _damaged(place: str, why: object) -> CalibrationError:
    return CalibrationError(f"cannot read {place}: {why}; the file is damaged or not an .npz or .npy; save it again")
