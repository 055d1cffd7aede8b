"""The operators that quantize, in every form: the one table that tests of emitters go through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from tests.support import quantizing


@dataclass(frozen=True, kw_only=True)
class Operator:
    """A float model, most of one node, whose nodes all quantize.

    Attributes:
        body, inputs, output, weights: ONNX text of the nodes, and of what they read and return.
        feeds: of inputs that are not N(0, 1).
        dynamic: the kernel of its dynamic form, None where there is none.
        qoperator: the operators of its QOperator form, None where tests do not look at them.
        per_channel_in_qdq: whether onnxruntime can run its QDQ form with weights per channel: in stacks of matrices it
            fuses the group and then refuses the scales.
    """

    body: str
    inputs: str
    output: str
    weights: str = ""
    feeds: Mapping[str, np.ndarray] = field(default_factory=dict)
    dynamic: str | None = None
    qoperator: frozenset[str] | None = None
    per_channel_in_qdq: bool = True

    @property
    def weighted(self) -> bool:
        """Whether it has weights with channels."""
        return ", w" in self.body or "(w" in self.body

    def text(self, opset: int = 17) -> str:
        """Return the ONNX text of the model."""
        return quantizing.text(self.body, self.inputs, self.output, self.weights, opset)


def _product(body, x, w, y, *more, **facts):
    """Return a product of x and w, of the shapes given, with `more` weights."""
    weights = ", ".join((f"float[{w}] w", *more))
    return Operator(body=body, inputs=f"float[{x}] x", output=f"float[{y}] y", weights=weights, **facts)


def _conv(attributes, x, w, y, qoperator=True):
    body = f"y = Conv <{attributes}> (x, w, b)"
    kernels = frozenset({"QLinearConv"}) if qoperator else None
    return _product(body, x, w, y, f"float[{w.partition(',')[0]}] b", dynamic="ConvInteger", qoperator=kernels)


def _matmul(x, w, y, **facts):
    return _product("y = MatMul (x, w)", x, w, y, dynamic="MatMulInteger", **facts)


def _gemm(attributes="", bias=None, **facts):
    """Return a Gemm of 12 x 72 by 72 x 96. bias: its shape in brackets, "" for a scalar, None for no bias."""
    a = "72,12" if "transA = 1" in attributes else "12,72"
    b = "96,72" if "transB = 1" in attributes else "72,96"
    read, more = ("x, w", []) if bias is None else ("x, w, c", [f"float{bias} c"])
    body = f"y = Gemm <{attributes}> ({read})" if attributes else f"y = Gemm ({read})"
    return _product(body, a, b, "12,96", *more, dynamic="MatMulInteger", **facts)


def _recurrent(op, gates, direction):
    d = 2 if direction == "bidirectional" else 1
    return Operator(
        body=f'y, h = {op} <hidden_size = 16, direction = "{direction}"> (x, w, r, b)',
        inputs="float[5,2,64] x",
        output=f"float[5,{d},2,16] y, float[{d},2,16] h",
        weights=f"float[{d},{gates * 16},64] w, float[{d},{gates * 16},16] r, float[{d},{gates * 32}] b",
        dynamic="DynamicQuantizeLSTM" if op == "LSTM" else "DequantizeLinear",
    )


def _gather(axis, table, indices, y):
    size = [int(dim) for dim in table.split(",")][axis]
    shape = f"[{','.join(map(str, indices))}]" if indices else ""
    return Operator(
        body=f"y = Gather <axis = {axis}> (w, i)",
        inputs=f"int64{shape} i",
        output=f"float[{y}] y",
        weights=f"float[{table}] w",
        feeds={"i": np.random.default_rng(0).integers(-size, size, indices)},
        dynamic="Gather",
    )


# One node with weights each. 72 fills no block of 16, 32, 64 or 128.
WEIGHTS = {
    "conv-1d": _conv("pads = [1, 1]", "2,32,9", "24,32,3", "2,24,9"),
    "conv-2d": _conv("pads = [1, 1, 1, 1], strides = [2, 2]", "2,32,8,8", "24,32,3,3", "2,24,4,4"),
    "conv-3d": _product(
        "y = Conv (x, w)",
        "1,8,5,5,5",
        "24,8,3,3,3",
        "1,24,3,3,3",
        dynamic="ConvInteger",
        qoperator=frozenset({"QLinearConv"}),
    ),
    "conv-same": _conv('auto_pad = "SAME_UPPER"', "2,4,8,8", "6,4,3,3", "2,6,8,8", qoperator=False),
    "conv-dilated": _conv("dilations = [2, 2]", "1,4,8,8", "6,4,3,3", "1,6,4,4"),
    "depthwise": _conv("group = 96", "1,96,8,8", "96,1,3,3", "1,96,6,6"),
    "grouped": _conv("group = 2", "1,64,8,8", "24,32,3,3", "1,24,6,6"),
    "conv-transpose": _product(
        "y = ConvTranspose <strides = [2, 2]> (x, w, b)", "1,24,4,4", "24,32,3,3", "1,32,9,9", "float[32] b"
    ),
    "conv-transpose-grouped": _product(
        "y = ConvTranspose <group = 2> (x, w, b)", "1,32,4,4", "32,12,3,3", "1,24,6,6", "float[24] b"
    ),
    "matmul": _matmul("12,72", "72,96", "12,96", qoperator=frozenset({"MatMulIntegerToFloat"})),
    "matmul-vector": _matmul("72", "72,96", "96"),
    "matmul-3d": _matmul("2,12,72", "72,96", "2,12,96"),
    "matmul-batched": _matmul("2,12,72", "2,72,96", "2,12,96", per_channel_in_qdq=False),
    "matmul-broadcast": _matmul(
        "2,3,12,72",
        "3,72,96",
        "2,3,12,96",
        qoperator=frozenset({"MatMulIntegerToFloat"}),
        per_channel_in_qdq=False,
    ),
    "matmul-broadcast-input": _matmul("12,72", "3,72,96", "3,12,96", per_channel_in_qdq=False),
    "gemm": _gemm("", "[96]"),
    "gemm-transposed": _gemm("transB = 1", "[96]", qoperator=frozenset({"QGemm"})),
    **{
        f"gemm {scale}": _gemm(scale, "[96]")
        for scale in ("alpha = 0.5", "alpha = -2.0, beta = 0.25", "beta = 3.0", "beta = 0.0")
    },
    **{f"gemm bias {bias}": _gemm("beta = 2.0", bias) for bias in (None, "", "[1]", "[1,96]", "[12,96]", "[12,1]")},
    **{
        f"gemm trans{a}{b}": _gemm(f"alpha = 0.5, beta = 3.0, transA = {a}, transB = {b}", "[1,96]")
        for a in (0, 1)
        for b in (0, 1)
    },
    **{f"lstm-{direction}": _recurrent("LSTM", 4, direction) for direction in ("forward", "reverse", "bidirectional")},
    **{f"gru-{direction}": _recurrent("GRU", 3, direction) for direction in ("forward", "bidirectional")},
    "gather": _gather(0, "512,72", (3, 4), "3,4,72"),
    "gather-scalar": _gather(0, "512,72", (), "72"),
    "gather-inner": _gather(1, "72,512", (3, 4), "72,3,4"),
    "gather-middle": _gather(1, "4,256,8", (3,), "4,3,8"),
}


def _codes(body, inputs, output, weights, *kernels, per_channel_in_qdq=True):
    return Operator(
        body=body,
        inputs=inputs,
        output=output,
        weights=weights,
        qoperator=frozenset(kernels),
        per_channel_in_qdq=per_channel_in_qdq,
    )


_IMAGE, _IMAGES = "float[1,4,6,6] x", "float[1,4,6,6] x, float[1,4,6,6] z"

# What returns codes: products in front of what moves them, operators without weights, chains.
CODES = {
    "conv-relu": _codes(
        "a = Conv (x, w, b) y = Relu (a)",
        "float[1,4,8,8] x",
        "float[1,6,6,6] y",
        "float[6,4,3,3] w, float[6] b",
        "QLinearConv",
    ),
    "conv-clip": _codes(
        "a = Conv (x, w, b) y = Clip (a, lo, hi)",
        "float[1,4,8,8] x",
        "float[1,6,6,6] y",
        "float[6,4,3,3] w, float[6] b, float lo = {-0.5}, float hi = {1.0}",
        "QLinearConv",
    ),
    "matmul-requantized": _codes(
        "m = MatMul (x, w) y = Transpose <perm = [1, 0]> (m)",
        "float[5,8] x",
        "float[6,5] y",
        "float[8,6] w",
        "QLinearMatMul",
        "Transpose",
    ),
    "matmul-3d-requantized": _codes(
        "m = MatMul (x, w) y = Transpose <perm = [0, 2, 1]> (m)",
        "float[2,5,8] x",
        "float[2,6,5] y",
        "float[8,6] w",
        "QLinearMatMul",
        "Transpose",
    ),
    "matmul-batched-requantized": _codes(
        "m = MatMul (x, w) y = Transpose <perm = [0, 2, 1]> (m)",
        "float[2,5,8] x",
        "float[2,6,5] y",
        "float[2,8,6] w",
        "QLinearMatMul",
        "Transpose",
        per_channel_in_qdq=False,
    ),
    "matmul-of-activations": _codes(
        "m = MatMul (x, z) y = Transpose <perm = [0, 2, 1]> (m)",
        "float[2,5,8] x, float[2,8,6] z",
        "float[2,6,5] y",
        "",
        "QLinearMatMul",
        "Transpose",
    ),
    "gemm-requantized": _codes(
        "m = Gemm (x, w, b) y = Transpose <perm = [1, 0]> (m)",
        "float[5,8] x",
        "float[6,5] y",
        "float[8,6] w, float[6] b",
        "QGemm",
        "Transpose",
    ),
    "gemm-scaled": _codes(
        "m = Gemm <alpha = 0.5, beta = 0.25, transB = 1> (x, w) y = Transpose <perm = [1, 0]> (m)",
        "float[5,8] x",
        "float[6,5] y",
        "float[6,8] w",
        "QGemm",
        "Transpose",
    ),
    "add": _codes("y = Add (x, z)", _IMAGES, "float[1,4,6,6] y", "", "QLinearAdd"),
    "add-constant": _codes("y = Add (x, c)", _IMAGE, "float[1,4,6,6] y", "float[4,1,1] c", "QLinearAdd"),
    "mul": _codes("y = Mul (x, z)", _IMAGES, "float[1,4,6,6] y", "", "QLinearMul"),
    "sigmoid": _codes("y = Sigmoid (x)", _IMAGE, "float[1,4,6,6] y", "", "QLinearSigmoid"),
    "leaky-relu": _codes("y = LeakyRelu <alpha = 0.2> (x)", _IMAGE, "float[1,4,6,6] y", "", "QLinearLeakyRelu"),
    "softmax": _codes("y = Softmax (x)", "float[3,10] x", "float[3,10] y", "", "QLinearSoftmax"),
    "softmax-inner": _codes("y = Softmax <axis = 1> (x)", "float[3,10,4] x", "float[3,10,4] y", "", "QLinearSoftmax"),
    "concat": _codes(
        "y = Concat <axis = 1> (x, z, c)", _IMAGES, "float[1,10,6,6] y", "float[1,2,6,6] c", "QLinearConcat"
    ),
    "average-pool": _codes(
        "y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (x)",
        _IMAGE,
        "float[1,4,6,6] y",
        "",
        "QLinearAveragePool",
    ),
    "average-pool-ceil": _codes(
        "y = AveragePool <kernel_shape = [2], strides = [2], ceil_mode = 1> (x)",
        "float[1,4,7] x",
        "float[1,4,4] y",
        "",
        "QLinearAveragePool",
    ),
    "global-average-pool": _codes(
        "y = GlobalAveragePool (x)", _IMAGE, "float[1,4,1,1] y", "", "QLinearGlobalAveragePool"
    ),
    "where": _codes(
        "k = Greater (p, q) y = Where (k, x, z)",
        f"{_IMAGES}, float[6,6] p, float[6,6] q",
        "float[1,4,6,6] y",
        "",
        "QLinearWhere",
    ),
    "max-pool": _codes(
        "y = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (x)",
        _IMAGE,
        "float[1,4,3,3] y",
        "",
        "MaxPool",
    ),
    "moves": _codes(
        "a = Conv (x, w) s = DepthToSpace <blocksize = 2> (a) f = Flatten (s) u = Unsqueeze (f, zero) "
        "t = Transpose <perm = [2, 0, 1]> (u) g = Gather (t, index) e = Expand (g, shape) r = Reshape (e, flat) "
        "c = Slice (r, zero, six) p, q = Split <axis = 0> (c) y = Concat <axis = 0> (p, q)",
        "float[1,4,5,5] x",
        "float[6] y",
        "float[4,4,2,2] w, int64[1] zero = {0}, int64[1] six = {6}, int64[3] index = {3, 1, 7}, "
        "int64[3] shape = {3, 2, 2}, int64[1] flat = {-1}",
        "QLinearConv",
        "DepthToSpace",
        "Flatten",
        "Unsqueeze",
        "Transpose",
        "Gather",
        "Expand",
        "Reshape",
        "Slice",
        "Split",
        "QLinearConcat",
    ),
    "more-moves": _codes(
        'a = Conv (x, w) r = Resize <mode = "nearest"> (a, , scales) m = ReduceMax <axes = [2], keepdims = 1> (r) '
        "s = Squeeze (m, two) y = Tile (s, repeats)",
        "float[1,4,5,5] x",
        "float[1,8,8] y",
        "float[4,4,2,2] w, float[4] scales = {1.0, 1.0, 2.0, 2.0}, int64[1] two = {2}, int64[3] repeats = {1, 2, 1}",
        "QLinearConv",
        "Resize",
        "ReduceMax",
        "Squeeze",
        "Tile",
    ),
}

# All that has a form in format qoperator.
QOPERATOR = {name: operator for name, operator in (WEIGHTS | CODES).items() if operator.qoperator is not None}
