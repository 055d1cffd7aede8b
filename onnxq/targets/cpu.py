"""onnxruntime's CPU execution provider: groups of DequantizeLinear, operator, QuantizeLinear that become one kernel.

Every row is proven by its probe (tests/targets). Operators without a row (Sub, Div, Tanh, HardSwish, Gelu,
LayerNormalization, ReduceMean, ConvTranspose, Pad, a lone Relu ...) keep running in float between their Q/DQ pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxq.targets import Defaults, Output, Row, Target, Timing, targets
from onnxq.targets.cpu_weight_only import FOUR_BITS, ROWS as WEIGHT_ONLY_ROWS
from onnxq.types.format import Format
from onnxq.types.scheme import PerChannel, PerTensor, QuantType, Scheme

if TYPE_CHECKING:
    import onnx_ir as ir

_EIGHT = frozenset({QuantType.UINT8, QuantType.INT8})
_EVIDENCE = "probed onnxruntime==1.31.1 x86-64"


def _gemm(node: ir.Node, _: Scheme) -> str | None:
    if node.attributes.get_int("transA", 0):
        return "transA = 1 has no integer kernel"
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        for name in ("alpha", "beta"):
            value = node.attributes.get_float(name, 1.0)
            if value != 1.0:
                return f"{name} = {value:g} with a bias has no integer kernel"
    return None


def _resize(node: ir.Node, _: Scheme) -> str | None:
    mode = node.attributes.get_string("mode", "nearest")
    return None if mode == "nearest" else f"mode '{mode}' runs in float; only 'nearest' runs on codes"


def _one_output(node: ir.Node, _: Scheme) -> str | None:
    return "a second output (indices) has no 8-bit kernel" if len(node.outputs) > 1 else None


def _one_op(body: str, inputs: str = "float[1,8,8,8] x", weights: str = "", opset: int = 13) -> str:
    return f'<ir_version: 9, opset_import: ["" : {opset}]>\nprobe ({inputs}) => (float[] y)\n<{weights}>\n{{ {body} }}'


def _row(
    op: str,
    kernel: str,
    body: str,
    float_ns: float,
    quantized_ns: float,
    *,
    inputs: str = "float[1,8,8,8] x",
    weights: str = "",
    refuses: Callable[[ir.Node, Scheme], str | None] | None = None,
    condition: str = "",
) -> Row:
    """Row of an operator without weights; times in nanoseconds for each output element."""
    return Row(
        op=op,
        kernel=kernel,
        activations=_EIGHT,
        refuses=refuses,
        condition=condition,
        float_ns=float_ns,
        quantized_ns=quantized_ns,
        probe=_one_op(body, inputs, weights),
        evidence=_EVIDENCE,
    )


_TWO = "float[1,8,8,8] x, float[1,8,8,8] z"

_LINEAR = (
    Row(
        op="Conv",
        kernel="QLinearConv",
        activations=_EIGHT,
        weights=_EIGHT,
        probe=_one_op("y = Conv (x, w)", weights="float[8,8,3,3] w"),
        evidence=_EVIDENCE,
    ),
    Row(
        op="MatMul",
        kernel="QLinearMatMul",
        activations=_EIGHT,
        weights=_EIGHT,
        output=Output.OPTIONAL,
        float_kernel="MatMulIntegerToFloat",
        probe=_one_op("m = MatMul (x, w) y = Flatten (m)", "float[8,16] x", "float[16,8] w"),
        float_probe=_one_op("y = MatMul (x, w)", "float[8,16] x", "float[16,8] w"),
        evidence=_EVIDENCE,
    ),
    Row(
        op="Gemm",
        kernel="QGemm",
        activations=_EIGHT,
        weights=_EIGHT,
        output=Output.OPTIONAL,
        float_kernel="QGemm",
        refuses=_gemm,
        condition="transA = 0; alpha = beta = 1 where there is a bias",
        probe=_one_op("m = Gemm (x, w, b) y = Flatten (m)", "float[8,16] x", "float[16,8] w, float[8] b"),
        float_probe=_one_op("y = Gemm (x, w, b)", "float[8,16] x", "float[16,8] w, float[8] b"),
        evidence=_EVIDENCE,
    ),
)

_COMPUTING = (
    _row("Add", "QLinearAdd", "y = Add (x, z)", 0.10, 0.11, inputs=_TWO),
    _row("Mul", "QLinearMul", "y = Mul (x, z)", 0.10, 0.21, inputs=_TWO),
    _row("Sigmoid", "QLinearSigmoid", "y = Sigmoid (x)", 0.27, 0.28),
    _row("LeakyRelu", "QLinearLeakyRelu", "y = LeakyRelu (x)", 0.10, 0.28),
    _row("Softmax", "QLinearSoftmax", "y = Softmax (x)", 0.42, 3.5),
    _row("AveragePool", "QLinearAveragePool", "y = AveragePool <kernel_shape = [2, 2]> (x)", 0.27, 3.3),
    _row("GlobalAveragePool", "QLinearGlobalAveragePool", "y = GlobalAveragePool (x)", 0.14, 0.04),
    _row("Concat", "QLinearConcat", "y = Concat <axis = 1> (x, z)", 0.10, 0.04, inputs=_TWO),
    _row("Where", "QLinearWhere", "y = Where (c, x, z)", 0.15, 0.15, inputs=f"bool[1,8,8,8] c, {_TWO}"),
)

# These run on codes as they are; their times are those of moving one byte instead of four.
_MOVING = (
    _row("DepthToSpace", "DepthToSpace", "y = DepthToSpace <blocksize = 2> (x)", 0.14, 0.04),
    _row("Expand", "Expand", "y = Expand (x, s)", 0.10, 0.03, weights="int64[4] s = {2, 1, 1, 1}"),
    _row("Flatten", "Flatten", "y = Flatten (x)", 0.0, 0.0),
    _row("Gather", "Gather", "y = Gather <axis = 1> (x, i)", 0.10, 0.03, weights="int64[2] i = {0, 2}"),
    _row(
        "MaxPool",
        "MaxPool",
        "y = MaxPool <kernel_shape = [2, 2]> (x)",
        0.2,
        0.2,
        refuses=_one_output,
        condition="no second output (indices)",
    ),
    _row("ReduceMax", "ReduceMax", "y = ReduceMax <axes = [2, 3]> (x)", 0.1, 0.1),
    _row("Reshape", "Reshape", "y = Reshape (x, s)", 0.0, 0.0, weights="int64[2] s = {8, -1}"),
    _row(
        "Resize",
        "Resize",
        'y = Resize <mode = "nearest"> (x, , s)',
        0.8,
        1.3,
        weights="float[4] s = {1.0, 1.0, 2.0, 2.0}",
        refuses=_resize,
        condition="mode nearest",
    ),
    _row("Slice", "Slice", "y = Slice (x, a, b)", 0.10, 0.03, weights="int64[1] a = {0}, int64[1] b = {1}"),
    _row("Split", "Split", "y, v = Split <axis = 1> (x)", 0.10, 0.03),
    _row("Squeeze", "Squeeze", "y = Squeeze (x, a)", 0.0, 0.0, weights="int64[1] a = {0}"),
    _row("Tile", "Tile", "y = Tile (x, s)", 0.10, 0.03, weights="int64[4] s = {2, 1, 1, 1}"),
    _row("Transpose", "Transpose", "y = Transpose <perm = [0, 2, 3, 1]> (x)", 0.14, 0.04),
    _row("Unsqueeze", "Unsqueeze", "y = Unsqueeze (x, a)", 0.0, 0.0, weights="int64[1] a = {0}"),
)

_STATIC = Defaults(
    activations=Scheme(dtype=QuantType.UINT8, symmetric=False, granularity=PerTensor()),
    weights=Scheme(dtype=QuantType.INT8, symmetric=True, granularity=PerChannel()),
)

_DEFAULT_TIMING = Timing(
    quantize=0.07,
    dequantize=0.11,
    float_mac=1 / 60,
    quantized_mac=1 / 180,
    quantized_output=0.5,
    run_time_quantize=0.12,
    run_time_output=0.1,
    run_time_node=300.0,
    source="medians on one core of an x86-64 server with AVX-512 VNNI, onnxruntime 1.31.1",
)

targets.add(
    "cpu",
    Target(
        name="cpu",
        summary="onnxruntime's CPU execution provider on this machine",
        provider="CPUExecutionProvider",
        defaults={Format.QDQ: _STATIC, Format.QOPERATOR: _STATIC, Format.WEIGHT_ONLY: FOUR_BITS},
        timing=_DEFAULT_TIMING,
        rows=_LINEAR + _COMPUTING + _MOVING + WEIGHT_ONLY_ROWS,
    ),
)
