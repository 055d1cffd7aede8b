"""Imported models in another format on runtimes with faults: only what meets one stays, or is written around it."""

import numpy as np
import onnx_ir as ir
import onnxq
import pytest
from onnxq.graph.text import model_from_text
from onnxq.runtime.session import run_model
from onnxq.types.plan import Action
from tests.support.converting import ops, proto

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


AT_RUN_TIME = """
g (float[1,2] x) => (float[1,2] y) <float t = {0.1}, int8 z = {0}, int8[2,2] w = {LOWEST, 0, 5, 127}>
{
  q, s, o = DynamicQuantizeLinear (x) m = MatMulInteger (q, w, o, z)
  f = Cast <to = 1> (m) k = Mul (s, t) y = Mul (f, k)
}
"""


@pytest.mark.parametrize(("lowest", "name"), [(-128, "MatMulInteger"), (-127, "MatMulIntegerToFloat")])
def test_codes_that_came_at_run_time_are_calibrated_on_arm_without_the_lowest(lowest, name):
    report = onnxq.quantize(
        proto(HEAD.format(opset=17) + AT_RUN_TIME.replace("LOWEST", str(lowest))),
        format="qoperator",
        target="cpu-arm64",
        calibration=[{"x": np.array([[1, -1]], np.float32)}],
        placement="everywhere",
        check=False,
        guard=False,
    )
    assert ops(report.model)[name] == 1
    assert any("'int8-pairs-arm'" in entry.reason.text for entry in report.plan.decisions) is (lowest == -128)


RNG = np.random.default_rng(0)
ROWS, IMAGE = (RNG.standard_normal(shape).astype(np.float32) for shape in ((4, 64), (1, 8, 6, 6)))
NEWEST = {  # of opset 28, whose QuantizeLinear onnxruntime lacks
    "gemm": (
        "g (float[4,64] x) => (float[4,32] y) <float[64,32] w, float[32] b> { y = Gemm (x, w, b) }",
        {"x": ROWS},
    ),
    "conv": (
        "g (float[1,8,6,6] x) => (float[1,16,4,4] y) <float[16,8,3,3] w, float[16] b> { y = Conv (x, w, b) }",
        {"x": IMAGE},
    ),
    "embedding": (
        "g (int64[3] i) => (float[3,32] y) <float[100,64] t, float[64,32] w> { e = Gather (t, i) y = MatMul (e, w) }",
        {"i": np.array([1, 5, 99])},
    ),
}


def newest(name):
    model, rng = model_from_text(HEAD.format(opset=28) + NEWEST[name][0]), np.random.default_rng(3)
    for key, value in model.graph.initializers.items():
        value.const_value = ir.tensor(rng.standard_normal(value.shape.numpy()).astype(np.float32), name=key)
    return model, NEWEST[name][1]


def agrees(one, two, feeds):
    """Return whether outputs differ by 5% of the largest value at most, with the optimizer off and as served."""
    (right,) = run_model(one, feeds).values()
    found = [next(iter(run_model(two, feeds, optimize=each).values())) for each in (False, True)]
    return all(np.abs(each - right).max() < 0.05 * np.abs(right).max() for each in found)


@pytest.mark.parametrize("name", NEWEST)
def test_integer_operators_of_an_opset_without_quantize_linear_are_verified(name):
    model, feeds = newest(name)
    report = onnxq.quantize(model, format="qoperator", calibration=[feeds], placement="everywhere", guard=False)
    assert report.verification.outputs[0].sqnr_served > 25
    assert onnxq.verify(model, report.model, evaluation=[feeds]).outputs[0].sqnr_served > 25


@pytest.mark.parametrize(("came", "activations"), [("dynamic", "uint8"), ("dynamic", "int8,asymmetric")])
@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("name", NEWEST)
def test_what_an_opset_without_quantize_linear_is_converted_to_loads(name, portable, came, activations):
    model, feeds = newest(name)
    options = {"check": False, "guard": False, "allow_empty": True, "faults": ["no-quantize-linear-28"]}
    source = onnxq.quantize(
        model, format=came, activations=activations, calibration=[feeds], placement="everywhere", **options
    ).model
    report = onnxq.quantize(ir.to_proto(source), format="weight-only", portable=portable, **options)
    assert agrees(model, report.model, feeds)
    assert not any(node.op_type.endswith("eLinear") and not node.domain for node in report.model.graph.node) or portable
    product = [entry for entry in report.plan.decisions if entry.op in ("Gemm", "Conv", "MatMul", "MatMulInteger")]
    assert not portable or all(entry.action is Action.KEEP for entry in product)
    if portable:
        assert any("'no-quantize-linear-28'" in entry.reason.text for entry in report.plan.decisions)
    elif name == "conv":
        assert all("between those of com.microsoft" in entry.reason.text for entry in product)


@pytest.mark.parametrize(("form", "around"), [("qdq", True), ("qoperator", True), ("weight-only", False)])
def test_reasons_of_imported_nodes_say_what_was_gone_around(form, around):
    model, feeds = newest("gemm")
    options = {"calibration": [feeds], "check": False, "guard": False, "faults": ["no-quantize-linear-28"]}
    source = onnxq.quantize(model, format="dynamic", activations="uint8", placement="everywhere", **options).model
    report = onnxq.quantize(ir.to_proto(source), format=form, **options)
    products = ("Gemm", "MatMul", "com.microsoft::MatMulNBits")
    (product,) = [entry for entry in report.plan.decisions if entry.op in products]
    assert product.reason.text.count("'no-quantize-linear-28'") == around
