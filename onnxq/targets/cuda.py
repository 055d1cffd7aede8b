"""onnxruntime's CUDA execution provider: integer products whose activations are quantized at run time.

Its MatMulInteger multiplies int8 by int8 alone, and it has no DynamicQuantizeLinear, ConvInteger, QLinearConv or
QLinearMatMul: a model made for the CPU copies its activations back at every product. So activations are quantized
symmetrically to int8 by operators that it has: Abs, ReduceMax, Div, Max, QuantizeLinear.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxq.targets import Defaults, Row, Target, Timing, targets
from onnxq.targets.cpu_dynamic import one_operator, refuse_lookup, refuse_product, refuse_product_by_row
from onnxq.targets.cuda_floats import FLOAT16
from onnxq.types.float_type import FloatType
from onnxq.types.format import Format
from onnxq.types.scheme import PerChannel, PerTensor, PerToken, QuantType, Scheme

if TYPE_CHECKING:
    import onnx_ir as ir

_FORMATS = frozenset({Format.DYNAMIC})
_S8 = frozenset({QuantType.INT8})
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
            )
        },
        # Integer products win whatever their size: there are no figures yet that would say otherwise.
        timing=Timing(
            quantize=0.0,
            dequantize=0.0,
            float_mac=2.0,
            quantized_mac=1.0,
            quantized_output=0.0,
            run_time_quantize=0.0,
            run_time_output=0.0,
            run_time_node=0.0,
            source="not measured",
        ),
        rows=(
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
