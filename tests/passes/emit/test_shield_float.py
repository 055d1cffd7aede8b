"""What the plan leaves in float runs in float as served, also where all around it are codes."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxq.graph.text import model_from_text
from onnxq.passes import passes
from onnxq.runtime.readback import op_counts, optimized_graph
from onnxq.runtime.session import run_model
from onnxq.types.format import Format
from onnxq.types.plan import Plan
from tests.support.quantizing import plan_for, quantize_text, text

RNG = np.random.default_rng(0)
PICTURE, ROWS = RNG.standard_normal((1, 4, 6, 6)).astype(np.float32), RNG.standard_normal((5, 8)).astype(np.float32)
# operator, its weight and bias, input
CASES = {
    "Conv": ("Conv <pads = [1, 1, 1, 1]>", (4, 4, 3, 3), 4, PICTURE),
    "depthwise": ("Conv <group = 4, pads = [1, 1, 1, 1]>", (4, 1, 3, 3), 4, PICTURE),
    "ConvTranspose": ("ConvTranspose <pads = [1, 1, 1, 1]>", (4, 4, 3, 3), 4, PICTURE),
    "Gemm": ("Gemm", (8, 8), 8, ROWS),
    "Gemm transB": ("Gemm <transB = 1>", (8, 8), 8, ROWS),
}


def shape(array):
    return ",".join(map(str, array))


def sandwich(case, *, bias=True, behind="", kind="uint8", scale=1.0):
    """Codes, the operator in float, perhaps what may follow, and codes again."""
    op, of_weight, of_bias, feed = CASES[case]
    domain = "com.microsoft." if kind == "uint16" else ""  # before opset 21
    weight = ",".join(f"{value * scale:.9g}" for value in RNG.standard_normal(of_weight).reshape(-1))
    row = ",".join(f"{value:.9g}" for value in RNG.standard_normal(of_bias))
    end = f"a = {op} (d, w{', b' if bias else ''}) " + (f"c = {behind} (a)" if behind else "c = Identity (a)")
    model = model_from_text(
        text(
            f"q = {domain}QuantizeLinear (x, s, z) d = {domain}DequantizeLinear (q, s, z) {end} "
            f"p = {domain}QuantizeLinear (c, s, z) y = {domain}DequantizeLinear (p, s, z)",
            f"float[{shape(feed.shape)}] x",
            f"float[{'A,B,C,D' if feed.ndim == 4 else 'A,B'}] y",
            f"float s = {{0.05}}, {kind} z = {{{-3 if kind == 'int8' else 100}}}, "
            f"float[{shape(of_weight)}] w = {{{weight}}}, float[{of_bias}] b = {{{row}}}",
        )
    )
    passes.get("remove-identities").make({})(model)
    return model, {"x": feed}


def integer_kernels(model):
    names = [name.rpartition("::")[2] for name in op_counts(optimized_graph(model, layout=False))]
    return [name for name in names if name.startswith(("QLinear", "QGemm"))]


def shield(model, plan=None):
    plan = plan or Plan(target="cpu-vnni", format=Format.QDQ, fingerprint="", decisions=(), tensors={})
    return passes.get("shield-float").make({"plan": plan})(model)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("behind", ["", "Relu"])
@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16"])
def test_the_runtime_lets_it_be_and_it_computes_the_same(case, bias, behind, kind):
    model, feeds = sandwich(case, bias=bias, behind=behind, kind=kind)
    expected = run_model(model, feeds)["y"]
    # Weights are rounded, on an integer kernel or not; if they are not, the pass is not needed any more.
    assert np.abs(run_model(model, feeds, optimize=True)["y"] - expected).max() > 0
    assert shield(model).modified
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for optimize in (False, True):
        found = run_model(model, feeds, optimize=optimize)["y"]
        step = 0.05
        assert np.abs(found - expected).max() < 1.01 * step  # a tie may fall to the other side
        assert np.mean(found != expected) < 0.02
    assert not integer_kernels(model)
    assert not shield(model).modified


def test_a_bias_too_large_for_the_scales_of_tiny_weights_survives():
    model, feeds = sandwich("Gemm", scale=1e-7)
    expected = run_model(model, feeds)["y"]
    assert np.abs(run_model(model, feeds, optimize=True)["y"] - expected).max() > 0.5
    shield(model)
    np.testing.assert_allclose(run_model(model, feeds, optimize=True)["y"], expected, atol=0.051)


def test_another_reader_of_the_activations_keeps_the_single_scale():
    model, feeds = sandwich("Conv")
    dequantized = next(node for node in model.graph if node.op_type == "DequantizeLinear").outputs[0]
    extra = ir.node("Relu", [dequantized], name="extra")
    model.graph.insert_after(dequantized.producer(), extra)
    extra.outputs[0].name, extra.outputs[0].type = "e", dequantized.type
    model.graph.outputs.append(extra.outputs[0])
    expected = run_model(model, feeds)
    shield(model)
    assert [use.node.name for use in dequantized.uses()] == ["extra"]
    for name, value in run_model(model, feeds, optimize=True).items():
        np.testing.assert_allclose(value, expected[name], atol=0.051)


def test_what_stood_so_in_the_source_is_served_as_it_was():
    model, feeds = sandwich("Conv")
    plan = plan_for(model, feeds, format="qdq")
    assert not shield(model, plan).modified
    assert integer_kernels(model)


@pytest.mark.parametrize(
    ("opset", "start", "shielded"),
    [
        (12, "q = com.microsoft.QuantizeLinear (x, s, n) d = com.microsoft.DequantizeLinear (q, s, n)", True),
        (17, "q = QuantizeLinear (x, s) d = DequantizeLinear (q, s, '')", True),
        (17, "z = Identity (o) q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)", False),
    ],
    ids=["int8 in the domain com.microsoft", "no zero point", "computed zero point"],
)
def test_other_forms_of_the_zero_point_stay_valid(opset, start, shielded):
    model = model_from_text(
        f"""<ir_version: 7, opset_import: ["" : {opset}, "com.microsoft" : 1]>
        g (float[1,4,6,6] x, uint8 o) => (float[A,B,C,D] y) <float s = {{0.05}}, int8 n = {{-3}},
        float[1,4,1,1] w = {{1, -2, 3, 0.5}}>
        {{ {start.replace("''", '""')} a = Conv (d, w) p = QuantizeLinear (a, s) y = DequantizeLinear (p, s) }}"""
    )
    feeds = {"x": PICTURE, "o": np.array(7, np.uint8)}
    expected = run_model(model, feeds)["y"]
    assert shield(model).modified == shielded
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for optimize in (False, True):
        found = run_model(model, feeds, optimize=optimize)["y"]
        assert np.abs(found - expected).max() < 0.051 + (not shielded)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_a_rule_that_keeps_a_layer_in_float_is_obeyed_as_served(form):
    chain = text(
        "a = Conv <pads = [1, 1, 1, 1]> (x, u, i) r = Relu (a) c = Conv <pads = [1, 1, 1, 1]> (r, v, j) s = Relu (c) "
        "y = Conv <pads = [1, 1, 1, 1]> (s, w, k)",
        "float[1,8,16,16] x",
        "float[1,8,16,16] y",
        "float[8,8,3,3] u, float[8] i, float[8,8,3,3] v, float[8] j, float[8,8,3,3] w, float[8] k",
    )
    kept = quantize_text(
        chain, format=form, placement="everywhere", rules=[{"match": {"name": "Conv_2"}, "keep": "float"}]
    )
    assert kept.decision("Conv_2").action == "keep"
    assert kept.kernels()["QLinearConv"] == 2
    assert kept.sqnr(optimize=True) == pytest.approx(kept.sqnr(optimize=False), abs=0.1)
