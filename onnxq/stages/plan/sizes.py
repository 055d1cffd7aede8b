"""Extents of values, and the multiply-accumulates of nodes: for estimates of time and work."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnxq.ops import facts, op_key
from onnxq.ops.quantized import MATMUL_NBITS, quantized_operator
from onnxq.types.statistics import Statistics

if TYPE_CHECKING:
    import onnx_ir as ir

UNKNOWN = 32  # of an axis whose extent is neither declared nor observed; only relative times depend on it
_RECURRENT = ("LSTM", "GRU", "RNN")
_PRODUCTS = ("MatMul", "Gemm", "Einsum", "Attention")  # of the standard without facts, or of onnxruntime's own


class Sizes:
    """Extents of values: declared ones, else the largest that was observed, else a guess."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    def shape(self, value: ir.Value | None) -> tuple[int, ...]:
        """Return an extent for every axis; (32,) if even the rank is unknown."""
        if value is None:
            return ()
        statistics = self._statistics.tensors.get(value.name or "")
        observed = None if statistics is None else statistics.shapes
        if value.shape is None:
            return (UNKNOWN,) if observed is None else tuple(high for _, high in observed)
        declared = [dim if isinstance(dim, int) else None for dim in value.shape]
        if observed is None or len(observed) != len(declared):
            return tuple(UNKNOWN if dim is None else dim for dim in declared)
        return tuple(high if dim is None else dim for dim, (_, high) in zip(declared, observed, strict=True))

    def count(self, value: ir.Value) -> int:
        """Return the number of elements."""
        return math.prod(self.shape(value))

    def knows_rank(self, value: ir.Value | None) -> bool:
        """Return whether the number of a value's axes is declared, or was observed."""
        if value is None or value.shape is not None:
            return value is not None
        observed = self._statistics.tensors.get(value.name or "")
        return observed is not None and observed.shapes is not None


def multiply_accumulates(node: ir.Node, sizes: Sizes, weights: int | None = None) -> int:
    """Return how many multiply-accumulates a float or quantized node takes in one run, 0 where it multiplies nothing.

    Args:
        node: any node.
        sizes: of tensors.
        weights: elements of what it multiplies by; None to read them off the shapes of the slots known for weights.
    """
    key = op_key(node)
    fact = facts.get(key) if key in facts else None
    operator = quantized_operator(node)
    op = node.op_type if operator is None else operator.float_op
    if weights is None:
        slots = _weight_slots(node)
        weights = sum(sizes.count(value) for slot in slots if (value := node.inputs[slot]) is not None)
    shapes = [sizes.shape(value) for value in node.inputs]
    if op in _RECURRENT:
        return weights * (math.prod(shapes[0][:2]) if len(shapes[0]) == 3 else UNKNOWN)
    rows = math.prod(shapes[0][:-1]) if shapes and len(shapes[0]) > 1 else UNKNOWN
    if node.op_type == MATMUL_NBITS:
        return node.attributes.get_int("K", 0) * node.attributes.get_int("N", 0) * rows
    if operator is not None and operator.weights and op == "Conv":
        return sizes.count(node.outputs[0]) * math.prod(shapes[operator.weight_slots[0]][1:])
    product = any(word in node.op_type for word in _PRODUCTS) and (fact is None or bool(node.domain))
    if product or (operator is not None and operator.weights):
        return 0 if op == "Gather" else weights * rows
    if fact is None or fact.macs is None:
        return 0
    if weights and not (sizes.knows_rank(node.inputs[0]) and sizes.knows_rank(node.outputs[0])):
        return weights * UNKNOWN  # the weight still tells how long the rows of what it multiplies are
    return sizes.count(node.outputs[0]) * fact.macs(node, shapes)


def _weight_slots(node: ir.Node) -> tuple[int, ...]:
    key, operator = op_key(node), quantized_operator(node)
    slots: tuple[int, ...] = () if operator is None else operator.weight_slots
    if key in facts and (weight := facts.get(key).weight) is not None:
        slots = (weight, *facts.get(key).more_weights)
    return tuple(slot for slot in slots if slot < len(node.inputs))
