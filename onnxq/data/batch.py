"""One batch, checked against the model's signature before it is used, so that messages can say what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxq.data.signature import InputSpec, Signature
from onnxq.errors import CalibrationError, nearest

Array: TypeAlias = npt.NDArray[Any]
LABELS = "labels"
"""Key of an .npz that holds the expected results, where the model has no input of that name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The inputs of one run of the model.

    Attributes:
        feeds: an array for every input, of its dtype.
        where: which batch of which source, for messages.
        samples: how many samples it holds; 1 where the model has no batch axis.
        labels: their expected results, (samples, ...); None if the data has none.
    """

    feeds: dict[str, Array]
    where: str
    samples: int = 1
    labels: Array | None = None

    def rows(self, start: int, stop: int) -> Batch:
        """Return samples start..stop-1 as a batch of their own (views); only where axis 0 is a batch axis."""
        feeds = {name: array[start:stop] if array.ndim else array for name, array in self.feeds.items()}
        labels = None if self.labels is None else self.labels[start:stop]
        return Batch(feeds=feeds, where=self.where, samples=min(stop, self.samples) - start, labels=labels)


class Checker:
    """Checks batches against a signature, and collects a warning for each kind of conversion."""

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self.warnings: list[str] = []

    def check(self, item: Mapping[str, Any], where: str, labels: Array | None = None) -> Batch:
        """Return `item` as a batch of the model's dtypes.

        Raises:
            CalibrationError: a missing or unknown name, a dtype that cannot be converted without loss, a rank or
                extent that the model does not take, NaN, or no element though the model declares some.
        """
        names = self._signature.names
        for name in item:
            if name not in names:
                raise CalibrationError(f"{where}: the model has no input '{name}'{nearest(str(name), names)}")
        for name in names:
            if name not in item:
                raise CalibrationError(f"{where}: input '{name}' is missing{nearest(name, map(str, item))}")
        feeds = {spec.name: self._array(item[spec.name], spec, where) for spec in self._signature.inputs}
        samples = self._samples(feeds, where)
        if labels is not None and len(labels) != samples:
            raise CalibrationError(f"{where}: {len(labels)} labels for {samples} samples; give one for each")
        return Batch(feeds=feeds, where=where, samples=samples, labels=labels)

    def _array(self, value: Any, spec: InputSpec, where: str) -> Array:
        array = np.asarray(value)
        place = f"{where}: input '{spec.name}'"
        if spec.dims is not None:
            _check_shape(array.shape, spec, place, free_batch=self._signature.has_batch_axis)
        if array.size == 0 and 0 not in (spec.dims or ()):
            raise CalibrationError(f"{place} is empty, shape {list(array.shape)}; leave out batches without samples")
        array = self._cast(array, spec, place)
        if _is_float(array.dtype) and np.isnan(array).any():
            count = int(np.isnan(array).sum())
            raise CalibrationError(f"{place} holds {count} NaN out of {array.size} values; clean the data")
        return array

    def _cast(self, array: Array, spec: InputSpec, place: str) -> Array:
        if array.dtype == spec.dtype:
            return array
        if spec.dtype == object:
            if array.dtype.kind in "USO":
                return array.astype(object)
        elif _same_kind(array.dtype, spec.dtype):
            with np.errstate(over="ignore", invalid="ignore"):
                cast = array.astype(spec.dtype)
            if _lost(array, cast):
                message = f"{place} holds {array.dtype} values that do not fit {spec.dtype}"
                raise CalibrationError(f"{message} (from {array.min()} to {array.max()}); the model takes {spec}")
            warning = f"input '{spec.name}': {array.dtype} data was converted to {spec.dtype}"
            if warning not in self.warnings:
                self.warnings.append(warning)
            return cast
        hint = f"convert it as it is done when the model is served, for example array.astype('{spec.dtype}')"
        raise CalibrationError(f"{place} is {array.dtype}, the model takes {spec}; {hint}")

    def _samples(self, feeds: Mapping[str, Array], where: str) -> int:
        if not self._signature.has_batch_axis:
            return 1
        extents = {name: array.shape[0] for name, array in feeds.items() if array.ndim}
        if len(set(extents.values())) > 1:
            shown = ", ".join(f"'{name}' has {extent}" for name, extent in extents.items())
            raise CalibrationError(f"{where}: the inputs hold different numbers of samples (axis 0): {shown}")
        return next(iter(extents.values()), 1)


def _check_shape(shape: tuple[int, ...], spec: InputSpec, place: str, *, free_batch: bool) -> None:
    dims = spec.dims or ()
    if len(shape) != len(dims):
        hint = "add the batch axis: array[None]" if len(shape) == len(dims) - 1 else "reshape the data"
        raise CalibrationError(f"{place} has {len(shape)} axes {list(shape)}, the model takes {spec}; {hint}")
    for axis, (extent, dim) in enumerate(zip(shape, dims, strict=True)):
        # A fixed batch is fine: samples are regrouped to it.
        if isinstance(dim, int) and extent != dim and not (axis == 0 and free_batch):
            message = f"{place} has shape {list(shape)}, the model takes {spec}: axis {axis} must be {dim}"
            raise CalibrationError(f"{message}; prepare the data as it is served")


def _is_float(dtype: np.dtype[Any]) -> bool:
    # bfloat16 and the 8-bit floats of ml_dtypes are of kind "V" to numpy, but know NaN.
    return dtype.kind == "f" or (dtype.kind == "V" and dtype.names is None and "float" in dtype.name)


def _same_kind(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    return (_is_float(source) and _is_float(target)) or (source.kind in "iub" and target.kind in "iub")


def _lost(array: Array, cast: Array) -> bool:
    """Return whether the conversion changed an integer, or made a finite float infinite."""
    if _is_float(array.dtype):
        return bool((np.isinf(cast) & np.isfinite(array)).any())
    return not np.array_equal(array, cast)
