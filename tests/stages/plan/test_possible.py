"""What can be had nowhere is refused before any data is read, with the node and what would do."""

import numpy as np
import onnx_ir as ir
import onnxq
import pytest
from onnxq.errors import RecipeError
from onnxq.graph.text import model_from_text
from tests.support.quantizing import text

MODEL = text(
    "h = MatMul (x, w) r = Relu (h) y = Gemm (r, v)",
    "float[64,256] x",
    "float[64,256] y",
    "float[256,256] w, float[256,256] v",
)


def unread():
    raise AssertionError("the data was read")
    yield


REFUSED = {
    "16-bit activations, qdq": ({"activations": "uint16"}, "no kernel for uint16 activations; take int8 or uint8"),
    "16-bit activations, qoperator": (
        {"format": "qoperator", "activations": "int16"},
        "no kernel for int16 activations; take int8 or uint8; format weight-only leaves activations in float",
    ),
    "16-bit activations, dynamic": (
        {"format": "dynamic", "activations": "uint16"},
        "no kernel for uint16 activations; take int8 or uint8",
    ),
    "rows, qdq": ({"activations": "per-token"}, "no kernel for per-token activations; take per-tensor"),
    "blocks, qdq": ({"weights": "per-block(32)"}, "no kernel for per-block weights; take per-channel or per-tensor"),
    "4-bit weights, dynamic": ({"format": "dynamic", "weights": "int4"}, "no kernel for int4 weights; take int8"),
    "blocks of 24": (
        {"format": "weight-only", "weights": "int4,per-block(24)"},
        "no kernel for blocks of 24; take 16, 32, 64, 128 or 256",
    ),
    "4 bits in operators of the standard, at opset 17": (
        {"format": "weight-only", "weights": "int4,per-block(32)", "portable": True, "passes": "fix-names"},
        "needs opset 21, the model has 17",
    ),
    "one rule": (
        {"rules": [{"match": {"op": "Gemm"}, "activations": "int16"}]},
        "no node can have what rule 0 wants: 'Gemm_2': Gemm on target cpu",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_any_work(case):
    options, said = REFUSED[case]
    with pytest.raises(RecipeError) as caught:
        onnxq.quantize(model_from_text(MODEL), calibration=unread(), **options)
    assert said in str(caught.value)
    assert "'MatMul_0'" in str(caught.value) or "'Gemm_2'" in str(caught.value)


def test_a_rule_that_may_match_nothing_leaves_its_nodes_in_float():
    rules = [{"match": {"op": "Gemm"}, "activations": "int16", "optional": True}]
    data = [{"x": np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)}]
    plan = onnxq.plan(model_from_text(MODEL), calibration=data, rules=rules)
    assert {entry.node: entry.reason.code for entry in plan.decisions}["Gemm_2"] == "scheme"


def test_what_some_nodes_can_have_is_given_to_those():
    graph = text("a = MatMul (x, w) y = Tanh (a)", "float[64,256] x", "float[64,256] y", "float[256,256] w")
    data = [{"x": np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)}]
    plan = onnxq.plan(model_from_text(graph), calibration=data, activations="uint8", weights="int8")
    assert [entry.reason.code for entry in plan.decisions] == ["integer-kernel", "no-kernel"]


def test_codes_need_an_opset_that_has_them():
    """A Scan of opset 8 keeps the model there, which has no QuantizeLinear."""
    model = ir.from_onnx_text(
        """<ir_version: 6, opset_import: ["" : 8]>
        g (float[1,3,2] x) => (float[1,3,2] y) <float[2,2] w = {1, 2, 3, 4}> {
            m = MatMul (x, w)
            [old] y = Scan <body = b (float[2] a) => (float[2] o) { o = Relu (a) }, num_scan_inputs = 1> (, m)
        }"""
    )
    feeds = {"x": np.ones((1, 3, 2), np.float32)}
    plan = onnxq.plan(ir.to_proto(model), format="qdq", placement="everywhere", calibration=[feeds])
    (product,) = (each for each in plan.decisions if each.op == "MatMul")
    assert (product.action, product.reason.code) == ("keep", "scheme")
    assert product.reason.text == "QuantizeLinear needs opset 10, the model has 8"
