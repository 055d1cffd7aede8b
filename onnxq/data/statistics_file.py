"""Statistics on disk: one .npz, so that calibration runs once for any number of plans.

Two members: `header`, JSON as bytes, and `counts` and `values`, the int64 and float64 arrays of all tensors one after
the other; the header says where each begins. Floats in the header are hexadecimal, hence exact. Equal statistics give
equal bytes.
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
import zlib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import numpy.typing as npt

from onnxq.errors import CalibrationError
from onnxq.graph.atomic import FileBatch
from onnxq.types.statistics import (
    ChannelStatistics,
    Cluster,
    Histogram,
    Sentinel,
    Statistics,
    TensorStatistics,
)

FORMAT = "onnxq statistics"
VERSION = 2

_FOREIGN = "{path} holds no onnxq statistics; make some with `onnxq calibrate`"
_DAMAGED = "{path} is not a statistics file, or a damaged one ({error}); calibrate again"
# Errors of zipfile, zlib, numpy and json for bytes of another format.
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error)
_COUNTS, _VALUES = "counts", "values"
T = TypeVar("T")


def save_statistics(statistics: Statistics, path: Path) -> None:
    """Write statistics to `path`, replacing what is there only once all is written.

    Raises:
        CalibrationError: the file cannot be written.
    """
    pools: dict[str, _Pool] = {_COUNTS: _Pool(np.int64), _VALUES: _Pool(np.float64)}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": statistics.fingerprint,
        "samples": statistics.samples,
        "synthetic": statistics.synthetic,
        "tensors": {name: _pack(statistics.tensors[name], pools) for name in sorted(statistics.tensors)},
    }
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()

    def fill(file: IO[bytes]) -> None:
        np.savez_compressed(
            file,
            header=np.frombuffer(text, np.uint8),
            counts=pools[_COUNTS].array(),
            values=pools[_VALUES].array(),
        )

    try:
        with FileBatch() as files:
            files.write(path, fill)
            files.commit()
    except OSError as error:
        raise CalibrationError(f"statistics cannot be written to {path}: {error.strerror or error}") from error


def load_statistics(path: Path) -> Statistics:
    """Read statistics written by `save_statistics`.

    Raises:
        CalibrationError: no such file, not a statistics file, a damaged one, or one of another version.
    """
    header, arrays = _read(path)
    if header.get("format") != FORMAT:
        raise CalibrationError(_FOREIGN.format(path=path))
    if header.get("version") != VERSION:
        raise CalibrationError(
            f"{path} is of version {header.get('version')}, this onnxq reads version {VERSION}; calibrate again"
        )
    try:
        return Statistics(
            tensors={name: _tensor(packed, arrays) for name, packed in header["tensors"].items()},
            fingerprint=str(header["fingerprint"]),
            samples=int(header["samples"]),
            synthetic=bool(header["synthetic"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CalibrationError(f"{path} is damaged ({error}); calibrate again") from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # before numpy parses anything
            names = archive.namelist()
        if broken is not None:
            raise CalibrationError(_DAMAGED.format(path=path, error=f"{broken} fails its checksum"))
        if "header.npy" not in names:
            raise CalibrationError(_FOREIGN.format(path=path))
        with np.load(path, allow_pickle=False) as members:
            header = json.loads(members["header"].tobytes())
            arrays = {_COUNTS: members[_COUNTS], _VALUES: members[_VALUES]}
    except FileNotFoundError as error:
        raise CalibrationError(f"there is no statistics file {path}") from error
    except _UNREADABLE as error:
        raise CalibrationError(_DAMAGED.format(path=path, error=error)) from error
    if not isinstance(header, dict):
        raise CalibrationError(_FOREIGN.format(path=path))
    return header, arrays


class _Pool:
    """Arrays one after the other, equal ones once."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._dtype = dtype
        self._places: dict[bytes, int] = {}
        self._parts: list[npt.NDArray[Any]] = []
        self._size = 0

    def add(self, array: npt.NDArray[Any]) -> list[int]:
        """Return [start, size] of the array's place."""
        flat = np.ascontiguousarray(array, self._dtype).reshape(-1)
        place = self._places.setdefault(flat.tobytes(), self._size)
        if place == self._size:
            self._parts.append(flat)
            self._size += flat.size
        return [place, flat.size]

    def array(self) -> npt.NDArray[Any]:
        return np.concatenate(self._parts) if self._parts else np.zeros(0, self._dtype)


def _pack(value: Any, pools: dict[str, _Pool]) -> Any:
    """Turn a data type into JSON: floats as hexadecimal, arrays as their places."""
    if is_dataclass(value):
        return {field.name: _pack(getattr(value, field.name), pools) for field in fields(value)}
    if isinstance(value, np.ndarray):
        return pools[_COUNTS if value.dtype == np.int64 else _VALUES].add(value)
    if isinstance(value, tuple):
        return [_pack(each, pools) for each in value]
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, int) and value.bit_length() > 53:
        return hex(value)
    return value


def _tensor(packed: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> TensorStatistics:
    shapes, channels = packed["shapes"], packed["channels"]
    return TensorStatistics(
        **_numbers(packed, TensorStatistics),
        histogram=_histogram(packed["histogram"], arrays),
        shapes=None if shapes is None else tuple((int(low), int(high)) for low, high in shapes),
        sentinels=tuple(Sentinel(**_numbers(each, Sentinel)) for each in packed["sentinels"]),
        channels=None if channels is None else _channels(channels, arrays),
        clusters=tuple(
            Cluster(**_numbers(each, Cluster), histogram=_histogram(each["histogram"], arrays))
            for each in packed["clusters"]
        ),
    )


def _histogram(packed: dict[str, Any] | None, arrays: dict[str, npt.NDArray[Any]]) -> Histogram | None:
    if packed is None:
        return None
    return Histogram(**_numbers(packed, Histogram), counts=_place(packed["counts"], arrays[_COUNTS]))


def _channels(packed: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> ChannelStatistics:
    return ChannelStatistics(
        axis=int(packed["axis"]),
        minimum=_place(packed["minimum"], arrays[_VALUES]),
        maximum=_place(packed["maximum"], arrays[_VALUES]),
        sum_squares=_place(packed["sum_squares"], arrays[_VALUES]),
        count=_place(packed["count"], arrays[_COUNTS]),
        products=None if (products := packed.get("products")) is None else _square(_place(products, arrays[_VALUES])),
    )


def _square(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    side = math.isqrt(values.size)
    return values.reshape(side, side)


def _numbers(packed: dict[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Return the fields of `kind` that are plain numbers."""
    numbers: dict[str, Any] = {}
    for field in fields(kind):
        if field.type == "float":
            numbers[field.name] = float.fromhex(packed[field.name])
        elif field.type == "int":
            value = packed[field.name]
            numbers[field.name] = int(value, 16) if isinstance(value, str) else int(value)
    return numbers


def _place(place: list[int], array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    start, size = place
    if start < 0 or size < 0 or start + size > array.size:
        raise ValueError("an array is too short")
    return array[start : start + size].copy()
