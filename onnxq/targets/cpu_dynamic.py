"""onnxruntime's CPU execution provider: integer products whose activations are quantized at run time.

Models use operators of the ONNX standard. onnxruntime fuses DynamicQuantizeLinear, MatMulInteger and the scaling
of the result into one DynamicQuantizeMatMul, or, where several products read the same codes, each into a
MatMulIntegerToFloat; written in those operators from the start, a model takes the same time (0.97 to 1.05). Against
float, medians on one core with AVX-512 VNNI, 1 thread: 128x768x3072 3.4x faster, 1x2048x2048 3.2x, 16x384x384 2.1x.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxq.graph.constants import moved_tensor
from onnxq.targets import Defaults, Row
from onnxq.types.format import Format
from onnxq.types.scheme import PerChannel, PerTensor, PerToken, QuantType, Scheme

if TYPE_CHECKING:
    import onnx_ir as ir

DYNAMIC = Defaults(
    activations=Scheme(dtype=QuantType.UINT8, symmetric=False, granularity=PerTensor()),
    weights=Scheme(dtype=QuantType.INT8, symmetric=True, granularity=PerChannel()),
)

_FORMATS = frozenset({Format.DYNAMIC})
_U8, _S8 = frozenset({QuantType.UINT8}), frozenset({QuantType.INT8})
_EIGHT = _U8 | _S8
_OPSET = 11  # of DynamicQuantizeLinear
_SMALL_TABLE = 4096  # elements: less than the new nodes take


def rank_of(node: ir.Node, slot: int) -> int | None:
    """Return the rank of an input, None if it is unknown."""
    value = node.inputs[slot]
    return None if value is None or value.shape is None else len(value.shape)


def _other_axis(weights: Scheme, rank: int | None, own: int) -> str | None:
    """Refuse scales along another axis than that of the output's channels: they would not leave the sum."""
    granularity = weights.granularity
    if not isinstance(granularity, PerChannel) or granularity.axis is None or rank is None:
        return None
    if granularity.axis % rank == own % rank:
        return None
    return f"scales along axis {granularity.axis} of the weight, integer kernels take them along axis {own % rank}"


def refuse_product(node: ir.Node, weights: Scheme) -> str | None:
    """Return why a product is not written as MatMulInteger, None if it is."""
    if rank_of(node, 1) == 1:
        return "a weight of one axis has no integer kernel"
    return _other_axis(weights, rank_of(node, 1), -2 if node.attributes.get_int("transB", 0) else -1)


def refuse_product_by_row(node: ir.Node, weights: Scheme) -> str | None:
    """Return why a product whose activation has a scale for each row is not written, None if it is."""
    if rank_of(node, 0) == 1:
        return "an activation of one axis is a single token: per-tensor is the same"
    return refuse_product(node, weights)


def _convolution(node: ir.Node, weights: Scheme) -> str | None:
    if isinstance(weights.granularity, PerChannel) and not weights.symmetric:
        return "ConvInteger takes one zero point for all channels; set `symmetric: true` or `granularity: per-tensor`"
    return _other_axis(weights, rank_of(node, 1), 0)


def _lstm(node: ir.Node, weights: Scheme) -> str | None:
    if node.attributes.get_int("layout", 0):
        return "layout = 1 has no integer kernel"
    if not weights.symmetric and isinstance(weights.granularity, PerChannel):
        return "DynamicQuantizeLSTM takes one zero point for all channels; set `symmetric: true`"
    return _other_axis(weights, rank_of(node, 1), 1)


def refuse_lookup(node: ir.Node, weights: Scheme) -> str | None:
    """Return why a Gather does not look up codes, None if it does."""
    table = moved_tensor(node.inputs[0])
    if table is None or len(table.shape) < 2 or table.size < _SMALL_TABLE:
        return f"a table of fewer than 2 axes or {_SMALL_TABLE} elements is not worth it"
    return _other_axis(weights, len(table.shape), node.attributes.get_int("axis", 0))


def one_operator(body: str, inputs: str = "float[8,64] x", weights: str = "float[64,32] w") -> str:
    """Return the ONNX text of a probe: a model of one operator."""
    return f'<ir_version: 9, opset_import: ["" : 13]>\nprobe ({inputs}) => (float[] y)\n<{weights}>\n{{ {body} }}'


def _products(op: str) -> tuple[Row, ...]:
    """Return the rows of MatMul or Gemm."""

    def row(fused: str, activations: frozenset[QuantType], weights: frozenset[QuantType], symmetric: bool) -> Row:
        return Row(
            op=op,
            kernel="MatMulInteger",
            fused=fused,
            activations=activations,
            weights=weights,
            symmetric=symmetric,
            formats=_FORMATS,
            refuses=refuse_product,
            splits=True,
            condition="weight of two axes or more",
            opset=lambda weights: _OPSET,
            probe=one_operator(f"y = {op} (x, w)"),
        )

    return (
        row("DynamicQuantizeMatMul", _U8, _EIGHT, False),
        row("MatMulIntegerToFloat", _U8, _EIGHT, True),
        row("MatMulIntegerToFloat", _S8, _S8, True),
        row("MatMulIntegerToFloat", _S8, _S8, False),
        Row(
            op=op,
            kernel="MatMulInteger",
            activations=_EIGHT,
            weights=_EIGHT,
            formats=_FORMATS,
            activation_granularities=(PerToken,),
            refuses=refuse_product_by_row,
            splits=True,
            condition="activation and weight of two axes or more",
            opset=lambda weights: _OPSET,
            probe=one_operator(f"y = {op} (x, w)"),
        ),
    )


def _convolutions(weights: frozenset[QuantType], granularities: tuple[type, ...]) -> Row:
    return Row(
        op="Conv",
        kernel="ConvInteger",
        activations=_EIGHT,
        weights=weights,
        granularities=granularities,
        formats=_FORMATS,
        refuses=_convolution,
        condition="one zero point for all channels",
        slower="ConvInteger takes 5 to 20 times as long as Conv in float",
        opset=lambda weights: _OPSET,
        probe=one_operator("y = Conv (x, w)", "float[1,8,8,8] x", "float[8,8,3,3] w"),
        evidence="timed at 3x3, 1x1 and depthwise, 14 to 64 pixels wide",
    )


def _lstms(weights: frozenset[QuantType], granularities: tuple[type, ...]) -> Row:
    return Row(
        op="LSTM",
        kernel="DynamicQuantizeLSTM",
        activations=_U8,
        weights=weights,
        granularities=granularities,
        symmetric=False,
        formats=_FORMATS,
        contrib=True,
        refuses=_lstm,
        condition="layout = 0; one zero point for all channels",
        probe=one_operator(
            "y = LSTM <hidden_size = 8> (x, w, r)", "float[5,1,16] x", "float[1,32,16] w, float[1,32,8] r"
        ),
        evidence="1.1 to 3.3 times as fast as float, hidden size 128 to 512",
    )


ROWS = (
    *_products("MatMul"),
    *_products("Gemm"),
    _convolutions(_S8, (PerTensor, PerChannel)),
    _convolutions(_U8, (PerTensor,)),
    _lstms(_S8, (PerTensor, PerChannel)),
    _lstms(_U8, (PerTensor,)),
    Row(
        op="Gather",
        kernel="Gather",
        activations=_EIGHT,
        weights=_EIGHT,
        formats=_FORMATS,
        activation_granularities=(PerTensor, PerToken),
        refuses=refuse_lookup,
        splits=True,
        condition=f"a constant table of two axes or more and {_SMALL_TABLE} elements",
        probe=one_operator("y = Gather (w, i)", "int64[3] i", "float[512,16] w"),
    ),
)
