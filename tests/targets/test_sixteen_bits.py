"""Activations of 16 bits have no row on cpu: the runtime leaves such groups in float, between their conversions.

A runtime in which one of these fails has learnt something: it then wants a row, and the recipe w8a16 a new first line.
"""

import math

import pytest
from onnxq.graph.text import model_from_text
from onnxq.runtime.readback import op_counts, optimized_graph


def _group(op: str, x: str, w: str, bits: int) -> str:
    """A QDQ group of unsigned activations and int8 weights."""
    codes = ", ".join(str(index % 255 - 127) for index in range(math.prod(map(int, w.split(",")))))
    return f"""
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[{x}] x) => (float[] y)
        <float s = {{0.001}}, uint{bits} z = {{{1 << (bits - 1)}}}, float t = {{0.01}}, int8[{w}] w = {{{codes}}}>
        {{
            q = QuantizeLinear (x, s, z)
            a = DequantizeLinear (q, s, z)
            b = DequantizeLinear (w, t)
            c = {op}
            r = QuantizeLinear (c, s, z)
            y = DequantizeLinear (r, s, z)
        }}"""


@pytest.mark.parametrize(
    ("op", "x", "w"),
    [
        ("MatMul (a, b)", "8,64", "64,32"),
        ("Conv (a, b)", "1,8,8,8", "8,8,3,3"),
        ("Add (a, a)", "8,64", "64"),
        ("Sigmoid (a)", "8,64", "64"),
    ],
    ids=lambda text: text.split(" ")[0],
)
def test_groups_of_16_bit_activations_stay_in_float(op, x, w):
    assert not _kernels(_group(op, x, w, 16))
    assert _kernels(_group(op, x, w, 8))


def _kernels(graph):
    counts = op_counts(optimized_graph(model_from_text(graph), layout=False))
    names = {name.rpartition("::")[2] for name in counts}
    return {name for name in names if name.startswith("QLinear") or "Integer" in name or name == "QGemm"}
