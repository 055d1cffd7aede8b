"""onnxruntime's CUDA execution provider: integer products whose activations are quantized at run time.

Its MatMulInteger multiplies int8 by int8 alone, and it has no DynamicQuantizeLinear, ConvInteger, QLinearConv or
QLinearMatMul: a model made for the CPU copies its activations back at every product. So activations are quantized
symmetrically to int8 by operators that it has: Abs, ReduceMax, Div, Max, QuantizeLinear.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from onnxq.targets import UNMEASURED, Defaults, Row, Target, targets
from onnxq.targets.cpu_dynamic import one_operator, refuse_lookup, refuse_product, refuse_product_by_row
from onnxq.targets.cpu_weight_only import FOUR_BITS
from onnxq.targets.cpu_weight_only import ROWS as WEIGHT_ONLY_ROWS
from onnxq.targets.cuda_floats import FLOAT16
from onnxq.types.float_type import FloatType
from onnxq.types.format import Format
from onnxq.types.scheme import PerChannel, PerTensor, PerToken, QuantType, Scheme

if TYPE_CHECKING:
    import onnx_ir as ir

_FORMATS = frozenset({Format.DYNAMIC})
_S8 = frozenset({QuantType.INT8})
_TWO_BITS = frozenset({QuantType.INT2, QuantType.UINT2})
_EVIDENCE = "read from the kernel table of onnxruntime==1.31.1; not run"
_OPSET = 11


def _symmetric(node: ir.Node, weights: Scheme) -> str | None:
    return None if weights.symmetric else "weights without zero points only; set `symmetric: true`"


def _product(node: ir.Node, weights: Scheme) -> str | None:
    return _symmetric(node, weights) or refuse_product(node, weights)


def _product_by_row(node: ir.Node, weights: Scheme) -> str | None:
    return _symmetric(node, weights) or refuse_product_by_row(node, weights)


def _products(op: str) -> tuple[Row, ...]:
    return tuple(
        Row(
            op=op,
            kernel="MatMulInteger",
            activations=_S8,
            weights=_S8,
            symmetric=True,
            formats=_FORMATS,
            activation_granularities=(granularity,),
            refuses=_product_by_row if granularity is PerToken else _product,
            condition="symmetric; weight of two axes or more",
            opset=lambda weights: _OPSET,
            probe=one_operator(f"y = {op} (x, w)"),
            evidence=_EVIDENCE,
        )
        for granularity in (PerTensor, PerToken)
    )


def _weight_only() -> tuple[Row, ...]:
    """Return the rows of onnxruntime's own operators that multiply by, or look up, 4- and 8-bit codes."""
    return tuple(
        replace(row, weights=row.weights - _TWO_BITS, evidence=_EVIDENCE)
        for row in WEIGHT_ONLY_ROWS
        if row.contrib and row.op in ("MatMul", "Gemm", "Gather")
    )


targets.add(
    "cuda",
    Target(
        name="cuda",
        summary="onnxruntime's CUDA execution provider on an NVIDIA GPU",
        provider="CUDAExecutionProvider",
        floats={FloatType.FLOAT16: FLOAT16},
        defaults={
            Format.DYNAMIC: Defaults(
                activations=Scheme(dtype=QuantType.INT8, symmetric=True, granularity=PerTensor()),
                weights=Scheme(dtype=QuantType.INT8, symmetric=True, granularity=PerChannel()),
            ),
            Format.WEIGHT_ONLY: FOUR_BITS,
        },
        timing=UNMEASURED,
        instead={
            Format.QDQ: "its only kernel for 8-bit activations is MatMulInteger; take format dynamic or weight-only, "
            "--float-type float16, or --target tensorrt, which runs 8-bit convolutions",
            Format.QOPERATOR: "its provider has no QLinearConv or QLinearMatMul; take format dynamic or weight-only",
            "Conv": "convolutions of 8 bits need --target tensorrt; here they run in float, or in --float-type float16",
            "LSTM": "it runs in float, or in --float-type float16",
        },
        rows=(
            *_weight_only(),
            *_products("MatMul"),
            *_products("Gemm"),
            Row(
                op="Gather",
                kernel="Gather",
                activations=_S8,
                weights=_S8,
                formats=_FORMATS,
                activation_granularities=(PerTensor, PerToken),
                refuses=refuse_lookup,
                condition="a constant table of two axes or more",
                probe=one_operator("y = Gather (w, i)", "int64[3] i", "float[512,16] w"),
                evidence=_EVIDENCE,
            ),
        ),
    ),
)
