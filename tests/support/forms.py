"""Every form of every operator with weights, as models of one node."""

from dataclasses import dataclass, field

import numpy as np
from tests.support.quantizing import text


@dataclass(frozen=True)
class Form:
    """A float model of one node. `feeds`: of inputs that are no N(0, 1)."""

    text: str
    feeds: dict[str, np.ndarray] = field(default_factory=dict)


def _form(body, x, w, y, *more):
    weights = ", ".join((f"float[{w}] w", *more))
    return Form(text(body, f"float[{x}] x", f"float[{y}] y", weights, opset=21))


def _gemm(attributes="", bias=None):
    a = "64,12" if "transA = 1" in attributes else "12,64"
    b = "48,64" if "transB = 1" in attributes else "64,48"
    given = f"<{attributes}>" if attributes else ""
    if bias is None:
        return _form(f"y = Gemm {given} (x, w)", a, b, "12,48")
    return _form(f"y = Gemm {given} (x, w, c)", a, b, "12,48", f"float{bias} c")


def _recurrent(op, gates, direction):
    d = 2 if direction == "bidirectional" else 1
    return _form(
        f'y = {op} <hidden_size = 16, direction = "{direction}"> (x, w, r, b)',
        "5,2,64",
        f"{d},{gates * 16},64",
        f"5,{d},2,16",
        f"float[{d},{gates * 16},16] r",
        f"float[{d},{gates * 32}] b",
    )


def _gather(axis, table, y):
    ids = np.random.default_rng(0).integers(0, 16, (3, 4))
    return Form(
        text(f"y = Gather <axis = {axis}> (w, i)", "int64[3,4] i", f"float[{y}] y", f"float[{table}] w", opset=21),
        {"i": ids},
    )


SCALES = ("", "alpha = 0.5", "alpha = -2.0, beta = 0.25", "beta = 3.0", "beta = 0.0")
BIASES = ("", "[1]", "[48]", "[1,48]", "[12,48]")
FORMS = {
    "conv-1d": _form("y = Conv <pads = [1, 1]> (x, w, b)", "2,16,9", "24,16,3", "2,24,9", "float[24] b"),
    "conv-2d": _form(
        "y = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w, b)",
        "2,16,8,8",
        "24,16,3,3",
        "2,24,4,4",
        "float[24] b",
    ),
    "conv-3d": _form("y = Conv (x, w)", "1,8,5,5,5", "24,8,3,3,3", "1,24,3,3,3"),
    "depthwise": _form("y = Conv <group = 48> (x, w, b)", "1,48,8,8", "48,1,5,5", "1,48,4,4", "float[48] b"),
    "grouped": _form("y = Conv <group = 2> (x, w, b)", "1,32,8,8", "24,16,3,3", "1,24,6,6", "float[24] b"),
    "conv-transpose": _form(
        "y = ConvTranspose <strides = [2, 2]> (x, w, b)", "1,16,4,4", "16,24,3,3", "1,24,9,9", "float[24] b"
    ),
    "conv-transpose-grouped": _form(
        "y = ConvTranspose <group = 2> (x, w, b)", "1,32,4,4", "32,12,3,3", "1,24,6,6", "float[24] b"
    ),
    "matmul-2d": _form("y = MatMul (x, w)", "12,64", "64,48", "12,48"),
    "matmul-3d": _form("y = MatMul (x, w)", "2,12,64", "64,48", "2,12,48"),
    "matmul-batched": _form("y = MatMul (x, w)", "2,12,64", "2,64,48", "2,12,48"),
    "matmul-broadcast": _form("y = MatMul (x, w)", "12,64", "3,64,48", "3,12,48"),
    **{f"gemm {scale}": _gemm(scale, "[48]") for scale in SCALES},
    **{f"gemm bias {bias}": _gemm("beta = 2.0", bias) for bias in BIASES},
    "gemm without bias": _gemm(),
    **{
        f"gemm trans{a}{b}": _gemm(f"alpha = 0.5, beta = 3.0, transA = {a}, transB = {b}", "[1,48]")
        for a in (0, 1)
        for b in (0, 1)
    },
    **{
        f"{op}-{d}": _recurrent(op.upper(), g, d)
        for op, g in (("lstm", 4), ("gru", 3))
        for d in ("forward", "bidirectional")
    },
    "gather": _gather(0, "128,64", "3,4,64"),
    "gather-inner": _gather(1, "64,128", "64,3,4"),
}
