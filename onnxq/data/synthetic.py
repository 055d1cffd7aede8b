"""Synthetic samples, where there are no real ones: enough to build a quantized model, not to trust it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.data.reader import DataReader, RawItem
from onnxq.data.signature import InputSpec, Signature
from onnxq.data.source import Source
from onnxq.errors import CalibrationError, nearest

WARNING = (
    "no calibration data: ranges come from made-up inputs and will not fit real ones; "
    "give real samples with --calibration before you use this model"
)
SAMPLES = 8
_SEED = 20240229
_EXTENT, _PIXELS = 32, 224
# Token ids below this exist in any vocabulary.
_SMALL_ID = 2


def synthetic(
    signature: Signature, *, shapes: Mapping[str, Sequence[int]] | None = None, samples: int = SAMPLES
) -> Source:
    """Return `samples` synthetic batches from the model's signature; the same ones every time.

    Floats are N(0, 1), masks are ones, positions count up, other integers stay below the table they index. A free
    batch is 1, free extents of images are 224, others 32; the same name means the same extent.

    Args:
        signature: inputs of the model.
        shapes: shapes of some inputs, where the default does not fit the model.
        samples: how many batches.

    Raises:
        CalibrationError: `shapes` names no input, or does not fit it.
    """
    chosen = dict(shapes or {})
    for name, shape in chosen.items():
        spec = next((spec for spec in signature.inputs if spec.name == name), None)
        if spec is None:
            raise CalibrationError(f"shape for '{name}': the model has no such input{nearest(name, signature.names)}")
        _check(spec, tuple(shape))
    return Source(_SyntheticReader(signature, chosen, samples), signature, synthetic=True, warnings=[WARNING])


class _SyntheticReader(DataReader):
    """A `DataReader` of synthetic samples."""

    description = "made-up inputs"

    def __init__(self, signature: Signature, shapes: Mapping[str, Sequence[int]], samples: int) -> None:
        self._shapes = _extents(signature, shapes)
        self._samples = samples

    def items(self, signature: Signature, size: int | None) -> Iterator[RawItem]:
        """See `DataReader`."""
        generator = np.random.default_rng(_SEED)
        for number in range(1, self._samples + 1):
            values = {spec.name: _values(spec, self._shapes[spec.name], generator) for spec in signature.inputs}
            yield RawItem(values=values, where=f"{self.description}, batch {number}")

    def count(self, signature: Signature) -> int | None:
        """See `DataReader`."""
        first = next((shape for shape in self._shapes.values() if shape), ())
        return self._samples * first[0] if signature.has_batch_axis and first else self._samples


def _extents(signature: Signature, shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    named: dict[str, int] = {}
    for spec in signature.inputs:
        for dim, extent in zip(spec.dims or (), shapes.get(spec.name, ()), strict=False):
            if isinstance(dim, str):
                named[dim] = extent
    result = {}
    for spec in signature.inputs:
        if spec.name in shapes:
            result[spec.name] = tuple(shapes[spec.name])
            continue
        dims = (None,) if spec.dims is None else spec.dims
        result[spec.name] = tuple(
            dim if isinstance(dim, int) else named.get(dim or "", _default(axis, len(dims)))
            for axis, dim in enumerate(dims)
        )
    return result


def _default(axis: int, rank: int) -> int:
    if axis == 0:
        return 1
    return _PIXELS if rank == 4 else _EXTENT


def _values(spec: InputSpec, shape: tuple[int, ...], generator: np.random.Generator) -> npt.NDArray[Any]:
    name = spec.name.lower()
    if spec.dtype == object:
        return np.full(shape, "text", dtype=object)
    if spec.dtype.kind not in "iub":
        return generator.standard_normal(shape).astype(spec.dtype)
    if "mask" in name:
        return np.ones(shape, dtype=spec.dtype)
    if "position" in name:
        return np.broadcast_to(np.arange(shape[-1] if shape else 1), shape).astype(spec.dtype)
    below = 2 if spec.dtype.kind == "b" else spec.below or _SMALL_ID
    return generator.integers(0, max(below, 1), size=shape).astype(spec.dtype)


def _check(spec: InputSpec, shape: tuple[int, ...]) -> None:
    dims = spec.dims if spec.dims is not None else shape
    fits = len(shape) == len(dims) and all(
        extent >= 1 and (not isinstance(dim, int) or dim == extent) for extent, dim in zip(shape, dims, strict=False)
    )
    if not fits:
        raise CalibrationError(f"shape {list(shape)} does not fit input '{spec.name}', the model takes {spec}")
