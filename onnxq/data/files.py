"""Data in .npz and .npy files, one or a folder of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt

from onnxq.data.arrays import StoredArray, files_digest, open_arrays
from onnxq.data.listing import list_files
from onnxq.data.reader import DataReader, RawItem
from onnxq.data.signature import Signature
from onnxq.errors import CalibrationError

SUFFIXES = (".npz", ".npy")
# Bytes of input that are read at a time by default: one photograph, or some tens of small samples.
CHUNK_BYTES = 256 << 10
CHUNK_ROWS = 32
_HINT = (
    "; photographs are given as images:FOLDER?size=224, lines of text as text:FILE?tokenizer=..., sound as wav:FOLDER"
)
# numpy's name for an array that was saved without one.
_UNNAMED = "arr_0"


class FileReader(DataReader):
    """Reads .npz and .npy files in natural order of their names.

    Three layouts are understood, distinguished by the arrays' ranks:

    - batched: the model's own axes; axis 0 counts samples where the model has a batch axis;
    - stacked: one axis more in front, each entry is one batch as the model takes it;
    - single: one axis less, each file is one sample without the batch axis.
    """

    asks_size = True

    def __init__(self, path: Path) -> None:
        self.description = str(path)
        self._paths = list_files(path, SUFFIXES, ".npz or .npy", _HINT)

    def items(self, signature: Signature, size: int | None) -> Iterator[RawItem]:
        """See `DataReader`."""
        for path in self._paths:
            with open_arrays(path) as arrays:
                yield from _items(path, _named(arrays, signature, path), signature, size)

    def count(self, signature: Signature) -> int | None:
        """See `DataReader`."""
        total = 0
        for path in self._paths:
            with open_arrays(path) as arrays:
                stored = _named(arrays, signature, path)
                inputs = [stored[spec.name] for spec in signature.inputs if spec.name in stored]
                extra = _extra_axes(stored, signature)
                if extra == 0 and signature.has_batch_axis:
                    total += next((array.shape[0] for array in inputs if array.shape), 1)
                elif extra == 1 and not signature.has_batch_axis:
                    total += inputs[0].shape[0]
                elif extra == 1:
                    total += next((array.shape[0] * array.shape[1] for array in inputs if len(array.shape) > 1), 1)
                else:
                    total += 1
        return total

    def digest(self) -> str | None:
        """See `DataReader`."""
        return files_digest(self._paths)


def _items(path: Path, stored: dict[str, StoredArray], signature: Signature, size: int | None) -> Iterator[RawItem]:
    extra = _extra_axes(stored, signature)
    if extra == 0 and signature.has_batch_axis:
        chunks = _chunks(stored, size)
    elif extra == 1:
        chunks = (
            {name: rows[0] if rows.ndim else rows for name, rows in chunk.items()} for chunk in _chunks(stored, 1)
        )
    elif extra == -1 and signature.has_batch_axis:
        scalars = {spec.name for spec in signature.inputs if spec.dims == ()}
        values = {name: array.read() for name, array in stored.items()}
        chunks = iter([{name: array if name in scalars else array[None] for name, array in values.items()}])
    else:
        chunks = iter([{name: array.read() for name, array in stored.items()}])
    for number, values in enumerate(chunks, start=1):
        yield RawItem(values=values, where=f"{path}, batch {number}")


def _chunks(stored: dict[str, StoredArray], size: int | None) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield all arrays some rows at a time; those without axes are repeated."""
    extents = {name: array.shape[0] for name, array in stored.items() if array.shape}
    if len(set(extents.values())) > 1:
        place = next(iter(stored.values())).place.partition(", array")[0]
        shown = ", ".join(f"'{name}' has {extent}" for name, extent in extents.items())
        raise CalibrationError(f"{place}: the arrays hold different numbers of samples (axis 0): {shown}")
    rows = next(iter(extents.values()), 1)
    if size is None:
        row_bytes = sum(array.dtype.itemsize * math.prod(array.shape[1:]) for array in stored.values())
        size = max(1, min(CHUNK_ROWS, CHUNK_BYTES // max(row_bytes, 1)))
    constant = {name: array.read() for name, array in stored.items() if not array.shape}
    parts = {name: array.rows(size) for name, array in stored.items() if array.shape}
    for _ in range(0, rows, size):
        yield constant | {name: next(part) for name, part in parts.items()}


def _named(arrays: list[StoredArray], signature: Signature, path: Path) -> dict[str, StoredArray]:
    """Return the arrays by input name; an array without a name is the only input."""
    stored = {array.key: array for array in arrays}
    if len(signature.inputs) == 1:
        only = signature.inputs[0].name
        for unnamed in ("", _UNNAMED):
            if unnamed in stored and only not in stored:
                stored[only] = stored.pop(unnamed)
    if "" in stored:
        names = ", ".join(f"'{name}'" for name in signature.names)
        message = f"{path} holds one array, the model has {len(signature.inputs)} inputs: {names}"
        raise CalibrationError(f"{message}; save them together: numpy.savez(path, **{{name: array}})")
    return stored


def _extra_axes(stored: dict[str, StoredArray], signature: Signature) -> int | None:
    """Return how many more axes the arrays have than the model's inputs; None if that differs or is unknown."""
    extra = {
        spec: len(stored[spec.name].shape) - len(spec.dims)
        for spec in signature.inputs
        if spec.dims is not None and spec.name in stored
    }
    # Inputs without axes may be given once for all samples.
    numbers = {axes for spec, axes in extra.items() if spec.dims} or set(extra.values())
    return numbers.pop() if len(numbers) == 1 else None
