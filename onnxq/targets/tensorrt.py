"""onnxruntime's TensorRT execution provider: 8-bit networks by TensorRT's rules for explicit quantization; not run.

The rules of TensorRT's documentation for a network with QuantizeLinear and DequantizeLinear:

- Activations and weights are symmetric int8, without zero points: activations with one scale, weights with one for
  each output channel. Biases stay in float.
- The inputs of convolutions and matrix products are quantized, not their outputs: a Relu or a sum behind them is fused
  as long as no QuantizeLinear stands between.
- Of a sum, the branch that is not a convolution or product is quantized (the residual connection): the other is
  fused with the sum.
- Operators that only move values need no pairs of their own: TensorRT moves those across them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxq.targets import UNMEASURED, Defaults, Output, Row, Target, targets
from onnxq.targets.cuda_floats import FLOAT16
from onnxq.types.float_type import FloatType
from onnxq.types.format import Format
from onnxq.types.scheme import PerChannel, PerTensor, QuantType, Scheme

if TYPE_CHECKING:
    import onnx_ir as ir

_DOCS = "https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library"
_EVIDENCE = f"documented at {_DOCS}/work-quantized-types.html; not run"
_S8 = frozenset({QuantType.INT8})
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})

_SYMMETRIC = Defaults(
    activations=Scheme(dtype=QuantType.INT8, symmetric=True, granularity=PerTensor()),
    weights=Scheme(dtype=QuantType.INT8, symmetric=True, granularity=PerChannel()),
)


def _text(body: str, inputs: str, weights: str = "") -> str:
    return f'<ir_version: 9, opset_import: ["" : 13]>\nprobe ({inputs}) => (float[] y)\n<{weights}>\n{{ {body} }}'


def _weights(_: ir.Node, scheme: Scheme) -> str | None:
    return None if scheme.symmetric else "TensorRT has no zero points; set `symmetric: true` for the weights"


def _fused_with(node: ir.Node) -> frozenset[int]:
    """Return the slot of a sum whose value comes from a convolution or product that nothing else reads."""
    for slot, value in enumerate(node.inputs):
        producer = None if value is None else value.producer()
        if value is None or producer is None or producer.op_type not in _WEIGHTED:
            continue
        if len(value.uses()) == 1 and not value.is_graph_output():
            return frozenset({slot})
    return frozenset()


def _row(
    op: str,
    body: str,
    inputs: str,
    weights: str = "",
    *,
    float_inputs: Callable[[ir.Node], frozenset[int]] | None = None,
) -> Row:
    weighted = bool(weights)
    return Row(
        op=op,
        kernel=op,
        activations=_S8,
        weights=_S8 if weighted else frozenset(),
        formats=frozenset({Format.QDQ}),
        output=Output.OPTIONAL,
        symmetric=True,
        refuses=_weights if weighted else None,
        condition="weights without zero points" if weighted else "",
        largest_rank_per_channel=2 if op == "MatMul" else None,
        float_inputs=float_inputs,
        float_bias=True,
        float_ns=2.0,
        quantized_ns=1.0,
        probe=_text(body, inputs, weights),
        evidence=_EVIDENCE,
    )


_IMAGE = "float[1,8,8,8] x"

targets.add(
    "tensorrt",
    Target(
        name="tensorrt",
        summary="onnxruntime's TensorRT execution provider on an NVIDIA GPU",
        provider="TensorrtExecutionProvider",
        floats={FloatType.FLOAT16: FLOAT16},
        defaults={Format.QDQ: _SYMMETRIC},
        # Its builder times kernels itself and joins what can be joined: conversions are left to it.
        timing=UNMEASURED,
        rows=(
            _row("Conv", "y = Conv (x, w)", _IMAGE, "float[8,8,3,3] w"),
            _row("ConvTranspose", "y = ConvTranspose (x, w)", _IMAGE, "float[8,8,3,3] w"),
            _row("MatMul", "y = MatMul (x, w)", "float[8,16] x", "float[16,8] w"),
            _row("Gemm", "y = Gemm (x, w, b)", "float[8,16] x", "float[16,8] w, float[8] b"),
            _row("Add", "y = Add (x, z)", f"{_IMAGE}, float[1,8,8,8] z", float_inputs=_fused_with),
            _row("AveragePool", "y = AveragePool <kernel_shape = [2, 2]> (x)", _IMAGE),
            _row("GlobalAveragePool", "y = GlobalAveragePool (x)", _IMAGE),
        ),
        instead={
            Format.QOPERATOR: "TensorRT reads no integer operators; take format qdq",
            Format.DYNAMIC: "TensorRT has no DynamicQuantizeLinear; take format qdq, or target cuda",
            Format.WEIGHT_ONLY: "TensorRT has no MatMulNBits; take format qdq, --float-type float16, or target cuda",
        },
    ),
)
