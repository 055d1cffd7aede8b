"""onnxruntime's CPU execution provider on x86-64 with AVX2 or AVX-512, but without VNNI or AMX.

Their kernels for u8 x s8 add pairs of products in 16 bits, which saturate: see `onnxq.targets.pair_sums`. Such
kernels and exact ones have separate rows. int8 activations outside of format qdq are exact, and slow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxq.targets import Row, targets
from onnxq.targets.cpu_common import ROWS, cpu_target
from onnxq.targets.cpu_vnni import VNNI
from onnxq.targets.evidence import proven
from onnxq.targets.pair_sums import PRODUCTS, IntegerProduct, limit_without_vnni, without_vnni
from onnxq.types.scheme import QuantType, Scheme

if TYPE_CHECKING:
    import onnx_ir as ir

_U8, _S8 = frozenset({QuantType.UINT8}), frozenset({QuantType.INT8})
_HAZARD = "adds pairs of products in 16 bits; weights are chosen so that none saturates"
_SLOW = "int8 activations run on kernels 3 to 10 times as slow as float without VNNI; take uint8"


def _depthwise(node: ir.Node, _: Scheme) -> str | None:
    weight = node.inputs[1]
    if weight is None or weight.shape is None or weight.shape[1] != 1:
        return "not depthwise"
    return None if weight.shape[0] == node.attributes.get_int("group", 1) else "several channels out for each group"


def _symmetric(row: Row) -> Callable[[ir.Node, Scheme], str | None]:
    """Return the row's own refusals and one of asymmetric weights, whose zero points take part in saturation."""

    def refuses(node: ir.Node, weights: Scheme) -> str | None:
        if not weights.symmetric:
            return "asymmetric int8 weights would saturate without VNNI; set `symmetric: true` or `dtype: uint8`"
        return None if row.refuses is None else row.refuses(node, weights)

    return refuses


def _in_pairs(row: Row, weights: QuantType) -> frozenset[QuantType]:
    """Return the types of activations whose products with such weights are added in pairs."""
    fmt = min(row.formats)
    return frozenset(
        each
        for each in row.activations
        if without_vnni(IntegerProduct(op=row.op, fmt=fmt, activations=each, weights=weights))
    )


def _without_vnni(row: Row) -> Iterator[Row]:
    """Yield a row's kernels that saturate, and the exact ones, as rows of their own."""
    if row.op not in PRODUCTS or not row.activations:
        yield row
        return
    both = row.activations
    if row.kernel == "ConvInteger":  # where pairs are added, activations would have to be limited: left out
        yield replace(row, activations=both - _in_pairs(row, *row.weights))
        return
    mixed = _in_pairs(row, QuantType.INT8)
    if row.slower:  # zero points: int8 weights must not have them here at all
        if row.weights - _S8:
            yield replace(row, weights=row.weights - _S8)
        return
    if row.op == "Conv" and row.weights & _S8:
        probe = row.probe.replace("Conv (x, w)", "Conv <group = 8> (x, w)").replace("[8,8,3,3]", "[8,1,3,3]")
        yield replace(
            row,
            activations=mixed,
            weights=_S8,
            refuses=_depthwise,
            condition="depthwise: one channel in and out for each group",
            probe=probe,
        )
    if mixed and row.weights & _S8:
        refuses, condition = _symmetric(row), "; ".join(filter(None, ("weights without zero points", row.condition)))
        yield replace(
            row, activations=mixed, weights=_S8, pairs=True, hazard=_HAZARD, refuses=refuses, condition=condition
        )
    if mixed and row.weights - _S8:
        yield replace(row, activations=mixed, weights=row.weights - _S8)
    if both - mixed:
        yield replace(row, activations=both - mixed, slower=_SLOW)


_target = cpu_target(
    "cpu-avx2",
    "CPU with AVX2 or AVX-512, no VNNI: u8 x s8 products are added in pairs that saturate",
    tuple(part for row in ROWS for part in _without_vnni(row) if part.activations or not row.activations),
    replace(
        VNNI.timing,
        quantized_mac=1 / 125,
        source="those of cpu-vnni; products at 2.1 times the speed of float, as measured on AVX2 without VNNI",
    ),
    proven("cpu-avx2"),
)
AVX2 = replace(_target, pair_limit=limit_without_vnni)
targets.add(AVX2.name, AVX2)
