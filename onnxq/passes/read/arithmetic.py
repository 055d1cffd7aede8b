"""Quantization that training left written out as arithmetic, as some exporters write it.

    x -> Div (or Mul by 1 / scale) -> [Add] -> Round -> [Add, Sub, Clip, Min, Max] -> Mul (or Div) by the scale

Scales are constants, of one element or one for each channel. It is found, not rewritten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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
    behind, before = list(_factors(node, ir.Node.successors)), list(_factors(node, ir.Node.predecessors))
    return any(
        one.size == other.size and np.allclose(one.reshape(-1) * other.reshape(-1), 1, rtol=1e-4)
        for one in before
        for other in behind
    )


def _factors(node: ir.Node, neighbours: Callable[[ir.Node], Sequence[ir.Node]]) -> Iterator[np.ndarray]:
    """Yield the scales that lie in one direction of a node, with nothing but offsets and bounds in between."""
    level = [node]
    for _ in range(_MAX_HOPS + 1):
        met = [neighbour for each in level for neighbour in neighbours(each)]
        yield from (factor for each in met if (factor := _factor(each)) is not None)
        level = [each for each in met if op_key(each) in _BETWEEN]


def _factor(node: ir.Node) -> np.ndarray | None:
    """Return what a Mul or Div by a constant multiplies by, float64."""
    slots = (1,) if node.op_type == "Div" else (0, 1)
    values = [constant_array(input_at(node, slot)) for slot in slots] if op_key(node) in _SCALES else []
    found = next((value for value in values if value is not None and value.dtype.kind == "f"), None)
    if found is None or not np.all(found):
        return None
    exact = found.astype(np.float64)
    return 1 / exact if node.op_type == "Div" else exact
