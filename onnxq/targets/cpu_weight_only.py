"""onnxruntime's CPU execution provider: quantized weights, the arithmetic in float.

MatMulNBits multiplies by codes of 2, 4 or 8 bits in blocks of 16 to 256; a weight per channel or per tensor has
blocks that share a scale. GatherBlockQuantized looks codes up. In operators of the ONNX standard the same is
DequantizeLinear in front of the float operator: the runtime fuses it with a product into MatMulNBits, and unpacks all
other weights before every run: their file gets smaller, not their time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxq.targets import Defaults, Row
from onnxq.targets.cpu_dynamic import rank_of
from onnxq.types.format import Format
from onnxq.types.scheme import PerBlock, PerChannel, PerTensor, QuantType, Scheme

if TYPE_CHECKING:
    import onnx_ir as ir

_BLOCKS = (16, 32, 64, 128, 256)
_TWO = frozenset({QuantType.INT2, QuantType.UINT2})
_SHORT = frozenset({QuantType.INT3, QuantType.INT4, QuantType.UINT4})
_BYTES = frozenset({QuantType.INT8, QuantType.UINT8})
_ALL = _TWO | _SHORT | _BYTES
_GRANULARITIES = (PerTensor, PerChannel, PerBlock)

_ACTIVATIONS = Scheme(dtype=QuantType.UINT8, symmetric=False)  # never used: activations stay in float
_METHOD = "mse:negative_scales=true"  # the extra code of -8..7 then serves whichever side needs it

FOUR_BITS = Defaults(
    activations=_ACTIVATIONS,
    weights=Scheme(dtype=QuantType.UINT4, symmetric=False, granularity=PerBlock(size=32), narrow=False),
    method=_METHOD,
)
"""The usual meaning of "weight-only". A zero point for each block costs 1/8 bit a weight and no time, and gives
0.7 dB at the outputs of a transformer encoder."""

_EIGHT_BITS = Defaults(
    activations=_ACTIVATIONS,
    weights=Scheme(dtype=QuantType.INT8, symmetric=True, granularity=PerChannel()),
)


def _opset(scheme: Scheme) -> int:
    """Return the first opset whose DequantizeLinear takes a scheme."""
    if scheme.dtype in _TWO:
        return 25
    return 21 if scheme.dtype in _SHORT or isinstance(scheme.granularity, PerBlock) else 13


def _blocks(scheme: Scheme) -> str | None:
    if isinstance(scheme.granularity, PerBlock) and scheme.granularity.size not in _BLOCKS:
        return f"no kernel for blocks of {scheme.granularity.size}; take 16, 32, 64, 128 or 256"
    return None


def _product(node: ir.Node, scheme: Scheme) -> str | None:
    if rank_of(node, 1) != 2:
        return "its weight is not a single matrix"
    return _transposed(node) or _axis(node, scheme) or _blocks(scheme)


def _portable_product(node: ir.Node, scheme: Scheme) -> str | None:
    if rank_of(node, 1) != 2:
        return "its weight is not a single matrix"
    return _axis(node, scheme) or _blocks(scheme)


def _stack(node: ir.Node, _: Scheme) -> str | None:
    return "its weight is a single matrix" if rank_of(node, 1) == 2 else None


def _transposed(node: ir.Node) -> str | None:
    return "transA = 1 has no kernel" if node.attributes.get_int("transA", 0) else None


def _axis(node: ir.Node, scheme: Scheme) -> str | None:
    """Refuse blocks along another axis than the summed one, and channels along another than the other one."""
    granularity = scheme.granularity
    summed = int(node.op_type == "Gemm" and node.attributes.get_int("transB", 0) != 0)
    if isinstance(granularity, PerBlock) and granularity.axis not in (None, summed, summed - 2):
        return f"blocks along axis {granularity.axis} have no kernel; leave the axis out"
    if isinstance(granularity, PerChannel) and granularity.axis not in (None, 1 - summed, -1 - summed):
        return f"a scale for each index of axis {granularity.axis} has no kernel; leave the axis out"
    return None


def _lookup(node: ir.Node, scheme: Scheme) -> str | None:
    granularity = scheme.granularity
    if rank_of(node, 0) != 2 or node.attributes.get_int("axis", 0) != 0:
        return "only rows of a matrix are looked up as codes"
    if isinstance(granularity, PerBlock) and granularity.axis not in (None, 1, -1):
        return f"blocks along axis {granularity.axis} cannot be looked up; leave the axis out"
    if isinstance(granularity, PerChannel) and granularity.axis not in (None, 0, -2):
        return f"a scale for each index of axis {granularity.axis} cannot be looked up; leave the axis out"
    return _packing(node, scheme)


def _packing(node: ir.Node, scheme: Scheme) -> str | None:
    table = node.inputs[0]
    assert table is not None
    assert table.shape is not None
    row, bits = int(table.shape[1]), scheme.dtype.stored_bits  # type: ignore[arg-type]
    if row * bits % 8:
        return f"rows of {row} codes of {bits} bits do not fill whole bytes; take 8 bits"
    return None


def _block_lookup(node: ir.Node, scheme: Scheme) -> str | None:
    granularity = scheme.granularity
    if isinstance(granularity, PerBlock) and (granularity.size < 16 or granularity.size & (granularity.size - 1)):
        return f"GatherBlockQuantized takes no blocks of {granularity.size}; take 16, 32, 64, 128 or 256"
    return _lookup(node, scheme)


def _portable_lookup(node: ir.Node, scheme: Scheme) -> str | None:
    problem = _lookup(node, scheme)
    if problem is None and rank_of(node, 1) is None:
        return "the rank of its indices is unknown"
    return problem


def _lookup_opset(scheme: Scheme) -> int:
    return 21  # codes of fewer bits are stored in bytes and unpacked


def _text(body: str, inputs: str, weights: str) -> str:
    return f'<ir_version: 10, opset_import: ["" : 25]>\nprobe ({inputs}) => (float[] y)\n<{weights}>\n{{ {body} }}'


_MATRIX = "float[64,24] w"
_PROBES = {
    "MatMul": _text("y = MatMul (x, w)", "float[8,64] x", _MATRIX),
    "Gemm": _text("y = Gemm (x, w, b)", "float[8,64] x", f"{_MATRIX}, float[24] b"),
}
_LOOKUP = _text("y = Gather (w, i)", "int64[5] i", _MATRIX.replace("64,24", "24,64"))

_PRODUCTS = tuple(
    row
    for op in ("MatMul", "Gemm")
    for row in (
        Row(
            op=op,
            kernel="MatMulNBits",
            formats=frozenset({Format.WEIGHT_ONLY}),
            contrib=True,
            activations=frozenset(),
            weights=_ALL,
            granularities=_GRANULARITIES,
            refuses=_product,
            condition="one matrix; blocks of 16, 32, 64, 128 or 256; transA = 0",
            probe=_PROBES[op],
        ),
        Row(
            op=op,
            kernel="DequantizeLinear",
            formats=frozenset({Format.WEIGHT_ONLY}),
            activations=frozenset(),
            weights=_ALL,
            granularities=_GRANULARITIES,
            refuses=_portable_product,
            condition="one matrix; blocks of 16, 32, 64, 128 or 256",
            opset=_opset,
            fused="MatMulNBits",
            takes_clamp=True,
            probe=_PROBES[op],
        ),
    )
)

_LOOKUPS = (
    Row(
        op="Gather",
        kernel="GatherBlockQuantized",
        formats=frozenset({Format.WEIGHT_ONLY}),
        contrib=True,
        activations=frozenset(),
        weights=_ALL,
        granularities=(PerChannel, PerBlock),
        refuses=_block_lookup,
        condition="rows of a matrix; blocks of a power of two from 16",
        probe=_LOOKUP,
    ),
    Row(
        op="Gather",
        kernel="DequantizeLinear",
        formats=frozenset({Format.WEIGHT_ONLY}),
        activations=frozenset(),
        weights=_ALL,
        granularities=(PerChannel, PerBlock),
        refuses=_portable_lookup,
        condition="rows of a matrix",
        opset=_lookup_opset,
        probe=_LOOKUP,
    ),
)

_UNPACKED = tuple(
    Row(
        op=op,
        kernel="DequantizeLinear",
        formats=frozenset({Format.WEIGHT_ONLY}),
        activations=frozenset(),
        weights=_ALL,
        granularities=_GRANULARITIES,
        refuses=_stack if op == "MatMul" else None,
        condition="a stack of matrices" if op == "MatMul" else "",
        defaults=_EIGHT_BITS,
        opset=_opset,
        probe=_text(body, inputs, weights),
    )
    for op, body, inputs, weights in (
        ("MatMul", "y = MatMul (x, w)", "float[2,8,64] x", "float[2,64,24] w"),
        ("Conv", "y = Conv (x, w)", "float[1,8,8,8] x", "float[8,8,3,3] w"),
        ("ConvTranspose", "y = ConvTranspose (x, w)", "float[1,8,8,8] x", "float[8,8,3,3] w"),
        ("LSTM", "y = LSTM <hidden_size = 16> (x, w, r)", "float[5,1,16] x", "float[1,64,16] w, float[1,64,16] r"),
        ("GRU", "y = GRU <hidden_size = 16> (x, w, r)", "float[5,1,16] x", "float[1,48,16] w, float[1,48,16] r"),
        ("RNN", "y = RNN <hidden_size = 64> (x, w, r)", "float[5,1,64] x", "float[1,64,64] w, float[1,64,64] r"),
    )
)

ROWS = _PRODUCTS + _LOOKUPS + _UNPACKED
