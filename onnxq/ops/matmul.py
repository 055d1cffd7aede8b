"""Matrix products. MatMul: [..., M, K] x [..., K, N]; Gemm: alpha * A' x B' + beta * C."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxq.ops import OpFact, facts

if TYPE_CHECKING:
    import onnx_ir as ir


def _gemm_transposed(node: ir.Node) -> bool:
    return bool(node.attributes.get_int("transB", 0))


def _gemm_macs(node: ir.Node, shapes: list[tuple[int, ...]]) -> int:
    return shapes[1][1 if _gemm_transposed(node) else 0]


facts.add(
    "MatMul",
    OpFact(
        summary="matrix product",
        activations=(0, 1),
        weight=1,
        channel_axis=lambda node, rank: rank - 1,
        reduction_axis=lambda node, rank: max(rank - 2, 0),
        feature_axis=lambda node, rank: rank - 1,
        macs=lambda node, shapes: shapes[0][-1],
    ),
)
facts.add(
    "Gemm",
    OpFact(
        summary="matrix product with bias",
        activations=(0, 1),
        weight=1,
        bias=2,
        channel_axis=lambda node, rank: 0 if _gemm_transposed(node) else 1,
        reduction_axis=lambda node, rank: 1 if _gemm_transposed(node) else 0,
        feature_axis=lambda node, rank: 0 if node.attributes.get_int("transA", 0) else 1,
        macs=_gemm_macs,
    ),
)
