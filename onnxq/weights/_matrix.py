"""A weight as the matrix that multiplies its inputs, features first; and the parameters of its groups."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.numerics.floats import round_to_format
from onnxq.types.scheme import PerBlock, PerTensor, QuantParams, Scheme

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightMatrix:
    """Views a weight as a matrix [features, outputs]: features along `axis`, all other axes are outputs."""

    shape: tuple[int, ...]
    axis: int
    scheme: Scheme

    @property
    def rest(self) -> tuple[int, ...]:
        """Return the extents of the weight's other axes."""
        axis = self.axis % len(self.shape)
        return self.shape[:axis] + self.shape[axis + 1 :]

    @property
    def group(self) -> int:
        """Return how many features share a scale in one output; all of them, unless there are blocks."""
        granularity = self.scheme.granularity
        return granularity.size if isinstance(granularity, PerBlock) else max(self.shape[self.axis], 1)

    @property
    def fits(self) -> bool:
        """Return whether groups lie along the features: blocks of them, or all those of one output or of every one."""
        granularity, rank = self.scheme.granularity, len(self.shape)
        if isinstance(granularity, PerTensor):
            return True
        if granularity.kind == "per-token" or granularity.axis is None:
            return False
        if isinstance(granularity, PerBlock):
            return granularity.axis % rank == self.axis % rank
        channels = self.shape[granularity.axis % rank]
        return granularity.axis % rank != self.axis % rank and channels == math.prod(self.rest)

    def matrix(self, weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a copy of the weight as [features, outputs]."""
        moved = np.moveaxis(weight, self.axis, 0)
        return np.array(moved.reshape(moved.shape[0], -1), order="C")

    def weight(self, matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Undo `matrix`."""
        moved = matrix.reshape(matrix.shape[0], *self.rest)
        return np.ascontiguousarray(np.moveaxis(moved, 0, self.axis))

    def rows(self, parameters: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return scales or zero points, of the shape that QuantParams has, as [groups, outputs or 1]."""
        if isinstance(self.scheme.granularity, PerBlock):
            return self.matrix(parameters)
        return np.array(parameters).reshape(1, -1)

    def params(self, scale: Float32, zero_point: Int32) -> QuantParams:
        """Return the parameters of [groups, outputs or 1] scales and zero points."""
        if isinstance(self.scheme.granularity, PerBlock):
            scale, zero_point = self.weight(scale), self.weight(zero_point)
        else:
            shape = () if isinstance(self.scheme.granularity, PerTensor) else (-1,)
            scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
        return QuantParams(scheme=self.scheme, scale=scale, zero_point=zero_point)


def nearest_codes(values: Float32, scale: Float32, zero_point: Int32, scheme: Scheme) -> Float32:
    """Return the nearest codes, as float32; all broadcastable. The arithmetic is that of QuantizeLinear."""
    low, high = scheme.code_range
    if scheme.dtype.is_float:
        return round_to_format(values / scale, scheme.dtype, np.rint)
    codes = np.rint(values / scale)
    codes += zero_point
    return np.asarray(np.minimum(np.maximum(codes, np.float32(low), out=codes), np.float32(high), out=codes))


def as_codes(codes: Float32, scheme: Scheme) -> npt.NDArray[Any]:
    """Return codes in the type that weight methods return."""
    return codes if scheme.dtype.is_float else codes.astype(np.int32)
