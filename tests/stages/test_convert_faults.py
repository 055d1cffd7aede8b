"""Imported models in another format on runtimes with faults: only what meets one stays, or is written around it."""

import numpy as np
import onnxq
import pytest
from tests.converting import ops, proto

HEAD = '<ir_version: 10, opset_import: ["" : {opset}]>\n'
PRODUCT = """
g (float[1,2] x) => (float[1,2] y)
<float s = {0.02}, TYPE o = {0}, float t = {0.1}, int8 z = {ZERO}, int8[2,2] w = {LOWEST, 0, 5, 127}>
{
  q = QuantizeLinear (x, s, o) d = DequantizeLinear (q, s, o) v = DequantizeLinear (w, t, z)
  m = MatMul (d, v) r = QuantizeLinear (m, s, o) y = DequantizeLinear (r, s, o)
}
"""


def product(lowest, zero=0, activations="uint8"):
    text = PRODUCT.replace("LOWEST", str(lowest)).replace("ZERO", str(zero)).replace("TYPE", activations)
    return proto(HEAD.format(opset=17) + text)


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("zero", [0, 3])
def test_imported_codes_without_the_lowest_are_converted_on_arm(zero, activations):
    for lowest in (-127, 0):
        report = onnxq.quantize(
            product(lowest, zero, activations), format="qoperator", target="cpu-arm64", check=False, guard=False
        )
        assert ops(report.model)["QLinearMatMul"] == 1


def test_imported_codes_with_the_lowest_stay_on_arm_and_say_why():
    options = {"format": "qoperator", "check": False, "guard": False, "allow_empty": True}
    report = onnxq.quantize(product(-128), target="cpu-arm64", **options)
    assert not ops(report.model)["QLinearMatMul"]
    (kept,) = [entry for entry in report.plan.decisions if entry.op == "MatMul"]
    assert "no code of its weights is -128" in kept.reason.text
    elsewhere = onnxq.quantize(product(-128), target="cpu-vnni", **options)
    assert ops(elsewhere.model)["QLinearMatMul"] == 1
