"""Which elements share a scale after Reshape and Transpose, compared with a label carried by each element."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxq.numerics.layout import ParameterLayout
from onnxq.types.scheme import PerBlock, PerChannel, PerTensor


def labels(shape: tuple[int, ...], granularity: PerTensor | PerChannel | PerBlock) -> tuple[np.ndarray, np.ndarray]:
    """Return made-up parameters, each another number, and for each element the one that it has."""
    if isinstance(granularity, PerTensor):
        return np.array(0), np.zeros(shape, int)
    places = np.indices(shape)
    if isinstance(granularity, PerChannel):
        assert granularity.axis is not None
        return np.arange(shape[granularity.axis]), places[granularity.axis]
    assert granularity.axis is not None
    counts = list(shape)
    counts[granularity.axis] = -(-shape[granularity.axis] // granularity.size)
    params = np.arange(math.prod(counts)).reshape(counts)
    places[granularity.axis] //= granularity.size
    return params, params[tuple(places)]


def spread(params: np.ndarray, granularity: PerTensor | PerChannel | PerBlock, shape: tuple[int, ...]) -> np.ndarray:
    """Return for each element the parameter that the operator specification gives it."""
    if isinstance(granularity, PerTensor):
        return np.broadcast_to(params, shape)
    assert granularity.axis is not None
    if isinstance(granularity, PerChannel):
        beside = [1] * len(shape)
        beside[granularity.axis] = -1
        return np.broadcast_to(params.reshape(beside), shape)
    repeated = params.repeat(granularity.size, granularity.axis)
    return repeated.take(range(shape[granularity.axis]), granularity.axis)


def test_codes_in_rows_of_blocks_become_a_matrix() -> None:
    layout = ParameterLayout((12, 16), PerChannel(axis=0))  # 4 outputs of 3 blocks of 16
    assert layout.reshape((4, 48))
    layout.transpose((1, 0))
    found = layout.granularity(blocks=0)
    assert found == PerBlock(axis=0, size=16)
    np.testing.assert_array_equal(layout.params(np.arange(12), found), np.arange(12).reshape(4, 3).T)


def test_an_axis_of_a_short_block_is_neither_cut_nor_joined() -> None:
    for shape in ((4, 5, 4), (80,), (2, 2, 5, 4)):
        assert not ParameterLayout((4, 20), PerBlock(axis=1, size=16)).reshape(shape)
    layout = ParameterLayout((4, 20), PerBlock(axis=1, size=16))
    assert layout.reshape((2, 2, 1, 20))
    assert layout.granularity(blocks=3) == PerBlock(axis=3, size=16)


@pytest.mark.parametrize("shape", [(5, 4), (20, 1), (0, 20), (7, 3)])
def test_what_shares_no_border_or_size_is_refused(shape: tuple[int, ...]) -> None:
    layout = ParameterLayout((4, 5), PerChannel(axis=0))
    assert layout.reshape(shape) is (shape == (20, 1))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_moves(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=3)))
    axis = data.draw(st.integers(0, len(shape) - 1))
    size = data.draw(st.integers(1, shape[axis] + 1))
    granularity = data.draw(st.sampled_from([PerTensor(), PerChannel(axis=axis), PerBlock(axis=axis, size=size)]))
    layout, (params, each) = ParameterLayout(shape, granularity), labels(shape, granularity)
    for _ in range(data.draw(st.integers(0, 4))):
        if data.draw(st.booleans()):
            order = data.draw(st.permutations(range(each.ndim)))
            layout.transpose(order)
            each = each.transpose(order)
        else:
            wanted, rest = [], each.size
            for _ in range(data.draw(st.integers(0, 3))):
                wanted.append(data.draw(st.sampled_from([n for n in range(1, rest + 1) if rest % n == 0])))
                rest //= wanted[-1]
            wanted.append(rest)
            if layout.reshape(wanted):
                each = each.reshape(wanted)
            else:
                return
    assert layout.shape == each.shape
    blocks = data.draw(st.integers(0, each.ndim - 1))
    found = layout.granularity(blocks)
    np.testing.assert_array_equal(spread(layout.params(params, found), found, each.shape), each)
    if isinstance(found, PerBlock) and each.shape[blocks] > found.size:  # no larger blocks than these would do
        double = PerBlock(axis=blocks, size=2 * found.size)
        sparse = each.take(range(0, each.shape[blocks], double.size), blocks)
        assert isinstance(granularity, PerBlock) or not np.array_equal(spread(sparse, double, each.shape), each)
