"""onnxruntime's CPU execution provider: weights as indices into tables of values, in operators of the ONNX standard.

No kernel computes on indices. The runtime decodes weights once, when it loads the model: the file gets smaller, time
and memory stay those of float. Only rows of an embedding are decoded as they are looked up, from indices in memory.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from onnxq.targets.cpu_weight_only import ROWS as WEIGHT_ONLY
from onnxq.types.scheme import PerBlock, PerChannel, PerTensor, QuantType, Scheme

if TYPE_CHECKING:
    import onnx_ir as ir

_TYPES = frozenset({QuantType.UINT2, QuantType.UINT4, QuantType.UINT8})


def _opset(scheme: Scheme) -> int:
    """Return the first opset whose Cast takes the type of the indices."""
    return {QuantType.UINT2: 25, QuantType.UINT4: 21}.get(scheme.dtype, 6)


def _lookup_opset(scheme: Scheme) -> int:
    return 6 if scheme.dtype is QuantType.UINT8 else 18  # BitwiseAnd unpacks bytes


def _decoding(node: ir.Node, scheme: Scheme) -> str | None:
    """Return why weights of an operator are not decoded, None if they are."""
    if scheme.vector == 1:
        return None
    weight = node.inputs[1] if node.op_type in ("MatMul", "Gemm") else None
    if weight is None or weight.shape is None or len(weight.shape) != 2:
        return "vectors of weights are looked up for matrices of MatMul and Gemm only; take vector=1"
    if not isinstance(scheme.granularity, PerTensor):
        return "all vectors of a matrix are in one table; take per-tensor"
    features = int(weight.shape[1 if node.attributes.get_int("transB", 0) else 0])  # type: ignore[arg-type]
    if features % scheme.vector:
        return f"{features} weights an output are not a multiple of vectors of {scheme.vector}"
    return None


def _lookup(node: ir.Node, scheme: Scheme) -> str | None:
    if scheme.vector > 1:
        return "rows are looked up value by value; take vector=1"
    if not isinstance(scheme.granularity, PerTensor):
        return "rows are looked up in one table for the whole matrix; take per-tensor"
    table, rows = node.inputs[0], node.inputs[1]
    if table is None or table.shape is None or len(table.shape) != 2 or node.attributes.get_int("axis", 0) != 0:
        return "only rows of a matrix are looked up in a codebook"
    if rows is None or rows.shape is None:
        return "the rank of its indices is unknown"
    columns = int(table.shape[1])  # type: ignore[arg-type]
    if columns * scheme.dtype.bits % 8:
        return f"rows of {columns} indices of {scheme.dtype.bits} bits do not fill whole bytes; take dtype uint8"
    return None


# The first row of each operator in operators of the standard: its probe serves here too.
_BY_OP = {row.op: row for row in reversed(WEIGHT_ONLY) if not row.contrib}

ROWS = tuple(
    replace(
        row,
        kernel="Gather",
        codebook=True,
        weights=_TYPES,
        granularities=(PerTensor, PerChannel, PerBlock),
        refuses=_lookup if op == "Gather" else _decoding,
        condition="rows of a matrix, one table" if op == "Gather" else "vectors for matrices only, one table",
        defaults=None,
        opset=_lookup_opset if op == "Gather" else _opset,
        fused="" if op == "Gather" else op,
    )
    for op, row in sorted(_BY_OP.items())
)
