"""Granularity as array shapes: which elements share a scale, seen as axes to reduce over and to broadcast along.

A tensor has a grouped form, in which parameters broadcast:

    granularity     grouped form                       parameters               broadcast as
    PerTensor       shape                              ()                       ()
    PerChannel(a)   shape                              (shape[a],)              (1, .., shape[a], .., 1)
    PerBlock(a, n)  .., shape[a] -> (blocks, n), ..    .., shape[a] -> blocks   .., (blocks, 1), ..
    PerToken        one block of each row              shape[:-1] + (1,)        .., (1, 1)
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from onnxq.errors import RecipeError
from onnxq.types.scheme import Granularity, PerBlock, PerChannel, PerTensor, PerToken

Array = npt.NDArray[Any]
T = TypeVar("T", bound=np.generic)


def parameter_shape(shape: tuple[int, ...], granularity: Granularity) -> tuple[int, ...]:
    """Return the shape of the scales of a tensor of `shape`.

    Raises:
        RecipeError: an axis that the tensor does not have, or that was not filled in.
    """
    if isinstance(granularity, PerTensor):
        return ()
    axis = _axis(shape, granularity)
    if isinstance(granularity, PerChannel):
        return (shape[axis],)
    return (*shape[:axis], -(-shape[axis] // _size(shape, granularity)), *shape[axis + 1 :])


def to_groups(array: npt.NDArray[T], granularity: Granularity) -> npt.NDArray[T]:
    """Return the grouped form: a view, or a copy padded with zeros where the last block is short."""
    if isinstance(granularity, PerTensor | PerChannel):
        return array
    axis, size = _axis(array.shape, granularity), _size(array.shape, granularity)
    missing = -array.shape[axis] % size
    if missing:
        padding = [(0, 0)] * array.ndim
        padding[axis] = (0, missing)
        array = np.pad(array, padding)
    return array.reshape(*array.shape[:axis], array.shape[axis] // size, size, *array.shape[axis + 1 :])


def from_groups(groups: npt.NDArray[T], shape: tuple[int, ...], granularity: Granularity) -> npt.NDArray[T]:
    """Undo `to_groups`: drop the padding and return an array of `shape`."""
    if isinstance(granularity, PerTensor | PerChannel):
        return groups
    axis = _axis(shape, granularity)
    joined = groups.reshape(*shape[:axis], groups.shape[axis] * groups.shape[axis + 1], *shape[axis + 1 :])
    return joined[(slice(None),) * axis + (slice(shape[axis]),)]


def spread(parameters: npt.NDArray[T], shape: tuple[int, ...], granularity: Granularity) -> npt.NDArray[T]:
    """Return the parameters as a view that broadcasts against the grouped form of a tensor of `shape`."""
    if isinstance(granularity, PerTensor):
        return parameters.reshape(())
    axis = _axis(shape, granularity)
    if isinstance(granularity, PerChannel):
        return parameters.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return np.expand_dims(parameters, axis + 1)


def group_axes(shape: tuple[int, ...], granularity: Granularity) -> tuple[int, ...]:
    """Return the axes of the grouped form that are reduced to get one number a group."""
    if isinstance(granularity, PerTensor):
        return tuple(range(len(shape)))
    axis = _axis(shape, granularity)
    if isinstance(granularity, PerChannel):
        return tuple(a for a in range(len(shape)) if a != axis)
    return (axis + 1,)


def groups_as_rows(array: npt.NDArray[T], granularity: Granularity) -> npt.NDArray[T]:
    """Return (groups, elements of a group), groups in the order of the flattened parameters; short blocks hold zeros.

    A view where the memory layout allows it.
    """
    groups = to_groups(array, granularity)
    order, kept = _rows_first(array.shape, groups.ndim, granularity)
    rows = math.prod(groups.shape[axis] for axis in order[:kept])
    return groups.transpose(order).reshape(rows, groups.size // rows if rows else 0)


def rows_as_array(rows: npt.NDArray[T], shape: tuple[int, ...], granularity: Granularity) -> npt.NDArray[T]:
    """Undo `groups_as_rows`: return an array of `shape`."""
    grouped = to_groups(np.broadcast_to(np.int8(0), shape), granularity).shape
    order, _ = _rows_first(shape, len(grouped), granularity)
    groups = rows.reshape([grouped[axis] for axis in order]).transpose(np.argsort(order))
    return from_groups(groups, shape, granularity)


def _rows_first(shape: tuple[int, ...], rank: int, granularity: Granularity) -> tuple[list[int], int]:
    """Return the grouped form's axes, those that number the groups first, and how many those are."""
    reduced = group_axes(shape, granularity)
    kept = [axis for axis in range(rank) if axis not in reduced]
    return [*kept, *reduced], len(kept)


def _axis(shape: tuple[int, ...], granularity: PerChannel | PerBlock | PerToken) -> int:
    axis = -1 if isinstance(granularity, PerToken) else granularity.axis
    if axis is None:
        raise RecipeError(f"{granularity.kind}: no axis was chosen for a tensor of shape {shape}")
    if not -len(shape) <= axis < len(shape):
        raise RecipeError(f"{granularity.kind}: a tensor of shape {shape} has no axis {axis}")
    return axis % len(shape)


def _size(shape: tuple[int, ...], granularity: PerBlock | PerToken) -> int:
    return granularity.size if isinstance(granularity, PerBlock) else max(shape[-1], 1)
