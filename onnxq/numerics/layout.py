"""Which elements of a tensor share a scale, followed through Reshape and Transpose.

Every axis is a product of factors, the slowest first; along each factor the parameters vary or do not:

    codes [N, K] in blocks of B along axis 1       (N*)  (K/B*  B)          * varies
    reshaped to [N, K/B, B]                        (N*)  (K/B*) (B)
    codes [N K/B, B], a scale for each row         (N*  K/B*)  (B)
    reshaped to [N, K]                             (N*)  (K/B*  B)          blocks of B again

A Reshape cuts and joins factors in order, a Transpose permutes axes. An axis whose last block is short is one factor
that cannot be cut or joined.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.types.scheme import PerBlock, PerChannel, PerTensor


@dataclass(eq=False, slots=True)
class _Factor:
    """A part of an axis: its extent, how many parameters lie along it, and their blocks' size where one is short."""

    extent: int
    params: int
    ragged: int = 0


class ParameterLayout:
    """The axes of a tensor whose quantization parameters have a granularity."""

    def __init__(self, shape: Sequence[int], granularity: PerTensor | PerChannel | PerBlock) -> None:
        """Begin with a dequantized tensor.

        Args:
            shape: of the tensor.
            granularity: of its parameters; names its axis.
        """
        self._in_blocks = isinstance(granularity, PerBlock)
        self._axes = []
        for axis, extent in enumerate(shape):
            here = not isinstance(granularity, PerTensor) and granularity.axis == axis
            if isinstance(granularity, PerBlock) and here:
                count, rest = divmod(extent, granularity.size)
                parts = [_Factor(extent=count, params=count), _Factor(extent=granularity.size, params=1)]
                if rest:
                    parts = [_Factor(extent=extent, params=count + 1, ragged=granularity.size)]
                self._axes.append(parts)
            else:
                varies = here or self._in_blocks
                self._axes.append([_Factor(extent=extent, params=extent if varies else 1)])
        self._first = [factor for axis in self._axes for factor in axis]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the current shape of the tensor."""
        return tuple(math.prod(factor.extent for factor in axis) for axis in self._axes)

    def reshape(self, shape: Sequence[int]) -> bool:
        """Follow a Reshape; return whether that is possible: not across axes, nor with an axis of a short block."""
        if math.prod(shape) != math.prod(self.shape) or not math.prod(shape):
            return False
        factors = [factor for axis in self._axes for factor in axis if factor.extent != 1]
        axes: list[list[_Factor]] = []
        for extent in shape:
            axis: list[_Factor] = []
            remaining = extent
            while remaining > 1:
                factor = factors.pop(0)
                if remaining % factor.extent:  # too long, or across a border
                    common = math.gcd(remaining, factor.extent)
                    if factor.ragged or common == 1:
                        return False
                    factors.insert(0, self._cut(factor, common))
                if factor.ragged and (axis or remaining != factor.extent):
                    return False
                axis.append(factor)
                remaining //= factor.extent
            axes.append(axis)
        self._axes = axes
        return True

    def transpose(self, order: Sequence[int]) -> None:
        """Follow a Transpose."""
        self._axes = [self._axes[axis] for axis in order]

    def granularity(self, blocks: int) -> PerTensor | PerChannel | PerBlock:
        """Return which elements share parameters now.

        Args:
            blocks: axis along which blocks would lie.
        """
        varying = [axis for axis, parts in enumerate(self._axes) if any(part.params > 1 for part in parts)]
        if not varying and not self._in_blocks:
            return PerTensor()
        alone = len(varying) == 1 and not self._in_blocks
        if alone and all(part.params == part.extent for part in self._axes[varying[0]]):
            return PerChannel(axis=varying[0])
        size = 1
        for part in reversed(self._axes[blocks]):
            if part.params > 1 or part.ragged:
                size *= part.ragged or 1
                break
            size *= part.extent
        return PerBlock(axis=blocks, size=size)

    def params(self, array: npt.NDArray[Any], granularity: PerTensor | PerChannel | PerBlock) -> npt.NDArray[Any]:
        """Return scales or zero points of the first tensor for the tensor as it is now.

        Args:
            array: of the shape that belongs to the granularity that the layout began with.
            granularity: what `granularity` returned.
        """
        if isinstance(granularity, PerTensor):
            return array.reshape(())
        now = [factor for axis in self._axes for factor in axis]
        first = [factor for factor in self._first if factor in now]
        params = array.reshape([factor.params for factor in first]).transpose([first.index(factor) for factor in now])
        if isinstance(granularity, PerChannel):
            return np.ascontiguousarray(params).reshape(-1)
        shape: list[int] = []
        extents: list[int] = []
        for axis, parts in enumerate(self._axes):
            size = granularity.size if axis == granularity.axis else 1
            shape.append(-(-self.shape[axis] // size))
            if parts and parts[0].ragged:  # which is alone in its axis
                along = np.arange(shape[-1] * size, step=size) // parts[0].ragged
                params, sizes = params.take(along, len(extents)), [len(along)]
            else:
                sizes = []
                for part in reversed(parts):  # the fastest make up a block
                    sizes.append(1 if size > 1 else part.extent)
                    size //= part.extent if size > 1 else 1
            extents += reversed(sizes)
        return np.ascontiguousarray(np.broadcast_to(params, extents)).reshape(shape)

    def _cut(self, factor: _Factor, extent: int) -> _Factor:
        """Cut a factor in two: it keeps the slower part, of the given extent; return the faster part."""
        varies = factor.params > 1
        rest = _Factor(extent=factor.extent // extent, params=1)
        rest.params = rest.extent if varies else 1
        factor.extent, factor.params = extent, extent if varies else 1
        self._first.insert(self._first.index(factor) + 1, rest)
        return rest
