"""The prefix-sum divergence equals its definition, bin by bin."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxq.calibrators.entropy import divergences


def by_definition(counts: list[float], start: int, end: int, levels: int) -> float:
    width = end - start
    used = min(levels, width)
    p = list(counts[start:end])
    before, behind = sum(counts[:start]), sum(counts[end:])
    p[0] += before
    p[-1] += behind
    q = [0.0] * width
    for level in range(used):
        bins = [i for i in range(width) if i * used // width == level]
        mass = sum(counts[start + i] for i in bins)
        if mass == 0 and sum(p[i] for i in bins) > 0:
            mass = 0.5
        filled = [i for i in bins if p[i] > 0]
        for i in filled:
            q[i] = mass / len(filled)
    total_p, total_q = sum(p), sum(counts[start:end]) or 0.5
    if 2 * sum(counts[start:end]) < total_p:
        return math.inf
    return sum(a / total_p * math.log(a / total_p / (b / total_q)) for a, b in zip(p, q, strict=True) if a > 0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=2, max_size=60), st.integers(2, 20), st.data())
def test_agrees_with_the_definition(counts: list[int], levels: int, data: st.DataObject) -> None:
    counts[data.draw(st.integers(0, len(counts) - 1))] += 1
    start = data.draw(st.integers(0, len(counts) - 2))
    end = data.draw(st.integers(start + 2, len(counts)))
    floats = [float(count) for count in counts]
    found = divergences(np.array(floats), np.array([start, 0]), np.array([end, len(counts)]), levels)
    assert found[0] == pytest.approx(by_definition(floats, start, end, levels), abs=1e-12)
    assert found[1] == pytest.approx(by_definition(floats, 0, len(counts), levels), abs=1e-12)


def test_no_loss_where_every_bin_has_its_level() -> None:
    counts = np.array([1.0, 5.0, 0.0, 2.0])
    assert divergences(counts, np.array([0]), np.array([4]), 4)[0] == pytest.approx(0.0, abs=1e-15)
    assert divergences(counts, np.array([0]), np.array([4]), 2)[0] > 0.1
