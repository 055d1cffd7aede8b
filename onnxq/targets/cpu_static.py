"""Groups of DequantizeLinear, operator and QuantizeLinear that onnxruntime's CPU provider fuses into one kernel.

The same kernels can be written out (format qoperator). Operators without a row (Sub, Div, Tanh, HardSwish, Gelu,
LayerNormalization, ReduceMean, ConvTranspose, Pad, a lone Relu ...) keep running in float between their Q/DQ pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnxq.targets import Defaults, Output, Row
from onnxq.types.format import Format
from onnxq.types.scheme import PerChannel, PerTensor, QuantType, Range, Scheme
from onnxq.types.statistics import TensorStatistics

if TYPE_CHECKING:
    import onnx_ir as ir

_SOFTMAX_DECIBELS = 35.0  # 8 bits hold about 40 of what fills their range
_EIGHT = frozenset({QuantType.UINT8, QuantType.INT8})
_QDQ, _QOPERATOR = frozenset({Format.QDQ}), frozenset({Format.QOPERATOR})


def _gemm(node: ir.Node, _: Scheme) -> str | None:
    if node.attributes.get_int("transA", 0):
        return "transA = 1 has no integer kernel"
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        for name in ("alpha", "beta"):
            value = node.attributes.get_float(name, 1.0)
            if value != 1.0:
                return f"{name} = {value:g} with a bias has no integer kernel"
    return None


def _few_zero_points(node: ir.Node, weights: Scheme) -> str | None:
    weight = node.inputs[1]
    if weight is None or weight.shape is None or weight.shape[1] != 1:
        return "not depthwise"
    return "one zero point" if weights.symmetric or isinstance(weights.granularity, PerTensor) else None


def _resize(node: ir.Node, _: Scheme) -> str | None:
    mode = node.attributes.get_string("mode", "nearest")
    return None if mode == "nearest" else f"mode '{mode}' runs in float; only 'nearest' runs in integers"


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
    output_range: Range | None = None,
    loses: Callable[[ir.Node, TensorStatistics], str | None] | None = None,
) -> Row:
    """Return the row of an operator without weights; times in nanoseconds for each output element."""
    return Row(
        op=op,
        kernel=kernel,
        activations=_EIGHT,
        refuses=refuses,
        condition=condition,
        output_range=output_range,
        loses=loses,
        float_ns=float_ns,
        quantized_ns=quantized_ns,
        probe=_one_op(body, inputs, weights),
    )


def _softmax(node: ir.Node, _: Scheme) -> str | None:
    # The kernel's table of exponentials overflows where 1 / scale exceeds e^5 (about 148) times the axis' extent. With
    # the scale 1/255 of the range 0 to 1 an extent of 2 is enough; an unknown one may be 1.
    shape = node.outputs[0].shape
    axis = node.attributes.get_int("axis", -1)
    extent = None if shape is None or not -len(shape) <= axis < len(shape) else shape[axis]
    if isinstance(extent, int) and extent >= 2:
        return None
    return "its kernel overflows where the normalised axis has one element, and its extent is not known to be more"


def _softmax_loses(node: ir.Node, seen: TensorStatistics) -> str | None:
    """Return why steps of 1/255 are too coarse for shares of many, None if they are not.

    Shares of N have the mean 1/N, so their mean square is at most highest/N; that of rounding is (1/255)^2 / 12.
    """
    axis = node.attributes.get_int("axis", -1)
    if not seen.shapes or not -len(seen.shapes) <= axis < len(seen.shapes):
        return None
    extent = max(seen.shapes[axis][1], 1)
    decibels = 10 * math.log10(12 * 255**2 * max(seen.maximum, 1 / extent) / extent)
    if decibels >= _SOFTMAX_DECIBELS:
        return None
    return (
        f"QLinearSoftmax returns codes of 0 to 1: of shares of {extent}, up to {seen.maximum:.3g}, they would keep at "
        f"most {decibels:.0f} dB"
    )


def _average_pool(node: ir.Node, _: Scheme) -> str | None:
    attributes = node.attributes
    if any(dilation != 1 for dilation in attributes.get_ints("dilations", ())):
        return "dilations have no 8-bit kernel"
    counted_in = attributes.get_int("count_include_pad", 0) and any(attributes.get_ints("pads", ()))
    if attributes.get_int("ceil_mode", 0) and counted_in:
        return "ceil_mode with padding counted in is computed wrongly by the 8-bit kernel"
    return None


def _linear(
    only: str = "",
    refuses: Callable[[ir.Node, Scheme], str | None] | None = None,
    *,
    contrib: bool = False,
    **row: Any,
) -> tuple[Row, ...]:
    """Return the rows of an operator with weights, for each pair of types that a format can write."""
    common = Row(activations=_EIGHT, weights=_EIGHT, refuses=refuses, condition=only, formats=_QDQ, **row)
    common = replace(common, takes_clamp=common.output is Output.OPTIONAL)
    u8, s8 = frozenset({QuantType.UINT8}), frozenset({QuantType.INT8})
    written = replace(common, formats=_QOPERATOR, contrib=contrib, largest_rank_per_channel=None, takes_clamp=False)
    # What QDQ fuses, onnxruntime converts to types it has kernels for; written out, int8 x uint8 is not among them.
    return common, replace(written, activations=u8), replace(written, activations=s8, weights=s8)


def _standard(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Return rows with quantized output for a kernel that returns float in onnxruntime's own operator only."""
    return tuple(
        replace(row, contrib=False, output=Output.REQUIRED, float_kernel="", float_probe="")
        for row in rows
        if Format.QOPERATOR in row.formats
    )


def _own_when_written(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Return rows of onnxruntime's own kernels, which format qdq needs not name and format qoperator does."""
    return tuple(
        row for both in rows for row in (replace(both, formats=_QDQ), replace(both, formats=_QOPERATOR, contrib=True))
    )


_TWO = "float[1,8,8,8] x, float[1,8,8,8] z"

_MATMUL = _linear(
    contrib=True,
    op="MatMul",
    kernel="QLinearMatMul",
    output=Output.OPTIONAL,
    float_kernel="MatMulIntegerToFloat",
    largest_rank_per_channel=2,
    probe=_one_op("m = MatMul (x, w) y = Flatten (m)", "float[8,16] x", "float[16,8] w"),
    float_probe=_one_op("y = MatMul (x, w)", "float[8,16] x", "float[16,8] w"),
)

_LINEAR = (
    *_linear(
        op="Conv",
        kernel="QLinearConv",
        refuses=_few_zero_points,
        only="depthwise, with a zero point for each channel",
        slower="depthwise with a zero point for each channel takes 100 times as long as in float; "
        "`symmetric: true` or `granularity: per-tensor` for its weights runs in integers",
        probe=_one_op("y = Conv <group = 8> (x, w)", weights="float[8,1,3,3] w"),
    ),
    *_linear(op="Conv", kernel="QLinearConv", probe=_one_op("y = Conv (x, w)", weights="float[8,8,3,3] w")),
    *_MATMUL,
    *_standard(_MATMUL),
    *_linear(
        contrib=True,
        op="Gemm",
        kernel="QGemm",
        output=Output.OPTIONAL,
        float_kernel="QGemm",
        refuses=_gemm,
        only="transA = 0; alpha = beta = 1 where there is a bias",
        probe=_one_op("m = Gemm (x, w, b) y = Flatten (m)", "float[8,16] x", "float[16,8] w, float[8] b"),
        float_probe=_one_op("y = Gemm (x, w, b)", "float[8,16] x", "float[16,8] w, float[8] b"),
    ),
)

_COMPUTING = (
    _row("Add", "QLinearAdd", "y = Add (x, z)", 0.10, 0.11, inputs=_TWO),
    _row("Mul", "QLinearMul", "y = Mul (x, z)", 0.10, 0.21, inputs=_TWO),
    _row("Sigmoid", "QLinearSigmoid", "y = Sigmoid (x)", 0.27, 0.28),
    _row("LeakyRelu", "QLinearLeakyRelu", "y = LeakyRelu (x)", 0.10, 0.28),
    _row(
        "Softmax",
        "QLinearSoftmax",
        "y = Softmax (x)",
        0.42,
        3.5,
        refuses=_softmax,
        condition="an axis of at least 2 elements",
        output_range=Range(low=0.0, high=1.0),
        loses=_softmax_loses,
    ),
    _row(
        "AveragePool",
        "QLinearAveragePool",
        "y = AveragePool <kernel_shape = [2, 2]> (x)",
        0.27,
        3.3,
        refuses=_average_pool,
        condition="no dilations; no ceil_mode with padding counted in",
    ),
    _row("GlobalAveragePool", "QLinearGlobalAveragePool", "y = GlobalAveragePool (x)", 0.14, 0.04),
    _row("Concat", "QLinearConcat", "y = Concat <axis = 1> (x, z)", 0.10, 0.04, inputs=_TWO),
    _row("Where", "QLinearWhere", "y = Where (c, x, z)", 0.15, 0.15, inputs=f"bool[1,8,8,8] c, {_TWO}"),
)

# These take codes unchanged; their times are those of moving one byte instead of four.
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

ROWS = _LINEAR + _own_when_written(_COMPUTING) + _MOVING

STATIC = Defaults(
    activations=Scheme(dtype=QuantType.UINT8, symmetric=False, granularity=PerTensor()),
    weights=Scheme(dtype=QuantType.INT8, symmetric=True, granularity=PerChannel()),
)
