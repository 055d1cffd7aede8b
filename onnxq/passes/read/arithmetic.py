"""Quantization that training left written out as arithmetic, as some exporters write it.

    x -> Div (or Mul by 1 / scale) -> [Add] -> Round -> [Add, Sub, Clip, Min, Max] -> Mul (or Div) by the scale

Scales are constants, of one element or one for each channel. It is found, not rewritten.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from onnxq.graph.constants import constant_array
from onnxq.graph.walk import input_at, nodes
from onnxq.ops import op_key

_SCALES, _BETWEEN = ("Mul", "Div"), ("Add", "Sub", "Clip", "Min", "Max")
_MAX_HOPS = 5  # Add, Clip, Sub and a Min and Max in the place of Clip


def fake_quantization(model: ir.Model) -> tuple[str, ...]:
    """Return the path names of the Round nodes between a scale and its inverse."""
    return tuple(name for name, node in nodes(model) if op_key(node) == "Round" and _is_between_scales(node))


def _is_between_scales(node: ir.Node) -> bool:
    behind = [factor for factor in map(_factor, _down(node)) if factor is not None]
    before = [factor for factor in map(_factor, _up(node)) if factor is not None]
    return any(
        one.size == other.size and np.allclose(one.reshape(-1) * other.reshape(-1), 1, rtol=1e-4)
        for one in before
        for other in behind
    )


def _factor(node: ir.Node) -> np.ndarray | None:
    """Return what a Mul or Div by a constant multiplies by, float64."""
    slots = (1,) if node.op_type == "Div" else (0, 1)
    values = [constant_array(input_at(node, slot)) for slot in slots] if op_key(node) in _SCALES else []
    found = next((value for value in values if value is not None and value.dtype.kind == "f"), None)
    if found is None or not np.all(found):
        return None
    exact = found.astype(np.float64)
    return 1 / exact if node.op_type == "Div" else exact


def _down(node: ir.Node) -> Iterator[ir.Node]:
    level = [node]
    for _ in range(_MAX_HOPS + 1):
        readers = [use.node for each in level for value in each.outputs for use in value.uses()]
        yield from (each for each in readers if op_key(each) in _SCALES)
        level = [each for each in readers if op_key(each) in _BETWEEN]


def _up(node: ir.Node) -> Iterator[ir.Node]:
    level = [node]
    for _ in range(_MAX_HOPS + 1):
        before = [value.producer() for each in level for value in each.inputs if value is not None]
        found = [each for each in before if each is not None]
        yield from (each for each in found if op_key(each) in _SCALES)
        level = [each for each in found if op_key(each) in _BETWEEN]
