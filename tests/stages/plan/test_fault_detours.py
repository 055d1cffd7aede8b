"""Plans go around faults of the runtime: what is written instead agrees with float, as served and as written."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxq
import pytest
from onnxq.errors import RecipeError
from onnxq.evaluate import faults as trying
from onnxq.graph.text import model_from_text
from onnxq.graph.walk import bodies
from onnxq.runtime.readback import op_counts, optimized_graph
from onnxq.runtime.session import run_model
from onnxq.stages.plan import examine, make_plan
from onnxq.targets import targets
from onnxq.types.plan import Action, Detour
from onnxq.types.recipe import Recipe
from onnxq.types.statistics import Statistics

HEAD = '<ir_version: 10, opset_import: ["" : {opset}]>\n'
IF = """g (bool c, float[4,64] x) => (float[4,32] y) <float[64,32] w, float[32] b> {
    y = If (c) <then_branch = t () => (float[4,32] a) { a = MatMul (x, w) },
                else_branch = e () => (float[4,32] d) { m = Gemm (x, w, b) d = Relu (m) }> }"""
LOOP = """g (float[4,64] x) => (float[4,64] y) <float[64,64] w, int64 n = {2}, bool c = {1}> {
    y = Loop (n, c, x) <body = l (int64 i, bool k, float[4,64] v) => (bool o, float[4,64] u)
        { o = Identity (k) u = MatMul (v, w) }> }"""
TABLE = "g (int64[3] i) => (float[3,32] y) <float[100,64] t, float[64,32] w> { e = Gather (t, i) y = MatMul (e, w) }"
CHAIN = """g (float[4,64] x) => (float[4,32] y) <float[64,64] w, float[64,32] v> {
    a = MatMul (x, w) b = Relu (a) y = MatMul (b, v) }"""


def quantized(text, feeds, *, opset=21, **options):
    model = model_from_text(HEAD.format(opset=opset) + text)
    report = onnxq.quantize(model, calibration=[feeds], placement="everywhere", guard=False, check=False, **options)
    (expected,) = run_model(model, feeds).values()
    found = []
    for optimize in (False, True):
        (actual,) = run_model(report.model, feeds, optimize=optimize).values()
        noise = np.sum(np.square(expected - actual, dtype=np.float64))
        signal = np.sum(np.square(expected, dtype=np.float64))
        found.append(10 * np.log10(signal / noise) if noise else np.inf)
    onnx.checker.check_model(ir.to_proto(report.model))
    return report, min(found)


def decisions(report):
    return [entry for entry in report.plan.decisions if entry.detours or entry.reason.code == "runtime-fault"]


FEEDS = {"x": np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)}


@pytest.mark.parametrize(
    "weights", ["uint4,per-block(32)", "int4,per-block(32)", "int8,per-channel", "uint8,asymmetric"]
)
@pytest.mark.parametrize(("text", "taken"), [(IF, True), (IF, False), (LOOP, None)])
def test_portable_products_in_bodies_hold_their_codes(text, taken, weights):
    feeds = FEEDS if taken is None else {**FEEDS, "c": np.array(taken)}
    report, decibels = quantized(text, feeds, format="weight-only", portable=True, weights=weights)
    assert decibels > (17 if "4" in weights else 37)
    assert {entry.detours for entry in decisions(report)} == {(Detour.OWN_CODES,)}
    assert all("'dequantize-in-body'" in entry.reason.text for entry in decisions(report))
    assert "dequantize-in-body" in report.recipe["faults"]
    _, *inner = bodies(report.model)
    held = [{value.dtype for value in graph.initializers.values()} for graph in inner]
    assert all(kinds - {ir.DataType.FLOAT} for kinds in held), "codes lie in every body"
    outer = report.model.graph.initializers.values()
    assert not any(value.shape is not None and len(value.shape) == 2 for value in outer), "and nowhere else"


def test_products_of_the_runtime_hold_their_zero_points_where_those_are_lost():
    feeds = {**FEEDS, "c": np.array(True)}
    report, decibels = quantized(IF, feeds, format="weight-only", faults=["nbits-in-body"])
    assert decibels > 20
    assert [entry.kernel for entry in decisions(report)] == ["MatMulNBits"] * 2
    assert all("'nbits-in-body'" in entry.reason.text for entry in decisions(report))
    usual, _ = quantized(IF, feeds, format="weight-only", faults="none")
    assert decisions(usual) == []


@pytest.mark.parametrize("weights", ["uint8,asymmetric", "uint8,asymmetric,per-block(32)", "uint4"])
def test_a_table_in_front_of_a_product_of_8_bits_is_signed(weights):
    rules = [{"match": {"op": "MatMul"}, "weights": "int8,per-channel,symmetric"}]
    feeds = {"i": np.array([1, 5, 99])}
    report, decibels = quantized(
        TABLE, feeds, format="weight-only", portable=True, weights=weights, rules=rules, faults=["unsigned-table"]
    )
    assert decibels > (17 if "4" in weights else 37)
    (table,) = decisions(report)
    assert (table.op, table.detours) == ("Gather", (Detour.SIGNED_TABLE,))
    kinds = {node.inputs[0].dtype for node in report.model.graph if node.op_type == "DequantizeLinear"}
    assert ir.DataType.UINT8 not in kinds


@pytest.mark.parametrize(
    ("form", "activations"),
    [("qdq", "uint8,asymmetric"), ("qoperator", "uint8,asymmetric"), ("qoperator", "int8,symmetric")],
)
def test_an_opset_without_quantize_linear_takes_the_runtimes_own(form, activations):
    report, decibels = quantized(
        CHAIN, FEEDS, opset=28, format=form, activations=activations, faults=["no-quantize-linear-28"]
    )
    assert decibels > 33
    assert {entry.detours for entry in decisions(report)} == {(Detour.CONTRIB_LINEAR,)}
    linear = [node for node in report.model.graph if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert linear
    assert {node.domain for node in linear} == {"com.microsoft"}
    assert "MatMul" not in op_counts(optimized_graph(report.model)), "both are fused"


@pytest.mark.parametrize("activations", ["uint8,symmetric", "int8,asymmetric", "int8,symmetric"])
def test_codes_quantized_at_run_time_take_the_runtimes_own(activations):
    report, decibels = quantized(
        CHAIN, FEEDS, opset=28, format="dynamic", activations=activations, faults=["no-quantize-linear-28"]
    )
    assert decibels > 33
    assert len(decisions(report)) == 2


def test_codes_of_dynamic_quantize_linear_need_no_other_operator():
    plain, _ = quantized(CHAIN, FEEDS, opset=28, format="dynamic", faults=["no-quantize-linear-28"])
    assert decisions(plain) == [], "DynamicQuantizeLinear is there"


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_what_may_use_the_standard_alone_stays_in_float(form):
    options = {"format": form, "portable": True, "faults": ["no-quantize-linear-28"], "allow_empty": True}
    report, decibels = quantized(CHAIN, FEEDS, opset=28, **options)
    assert decibels == np.inf
    kept = [entry for entry in report.plan.decisions if entry.op == "MatMul"]
    assert {(entry.action, entry.reason.code) for entry in kept} == {(Action.KEEP, "runtime-fault")}
    assert all("bring the model to an opset below 28" in entry.reason.text for entry in kept)


def test_tables_of_2_bits_take_the_next_row():
    text = "g (int64[3] i) => (float[3,64] y) <float[100,64] t> { y = Gather (t, i) }"
    options = {"format": "weight-only", "weights": "uint2,per-block(32)"}
    usual, _ = quantized(text, {"i": np.array([1, 5, 99])}, faults="none", **options)
    around, decibels = quantized(text, {"i": np.array([1, 5, 99])}, faults=["two-bit-lookup"], **options)
    assert [entry.kernel for entry in usual.plan.decisions] == ["GatherBlockQuantized"]
    assert [entry.kernel for entry in around.plan.decisions] == ["DequantizeLinear"]
    assert decibels > 4


def test_no_weight_code_is_the_lowest_on_arm():
    options = {"target": "cpu-arm64", "format": "qdq", "weights": "int8,asymmetric"}
    report, _ = quantized(CHAIN, FEEDS, **options)
    assert report.recipe["faults"] == ["int8-pairs-arm"]
    weights = [tensor for tensor in report.plan.tensors.values() if tensor.role == "weight"]
    assert all(tensor.scheme.symmetric and tensor.scheme.narrow for tensor in weights)
    codes = [
        value.const_value.numpy()
        for value in report.model.graph.initializers.values()
        if value.dtype == ir.DataType.INT8 and len(value.shape) == 2
    ]
    assert codes
    assert min(int(each.min()) for each in codes) == -127


def test_a_plan_is_made_without_trying_anything(monkeypatch):
    monkeypatch.setattr(trying, "run_model", lambda *_, **__: pytest.fail("tried"))
    model, recipe = model_from_text(HEAD.format(opset=21) + CHAIN), Recipe.parse({"format": "weight-only"})
    assert make_plan(examine(model, recipe, targets.get(recipe.target)), Statistics()).decisions


def test_a_report_repeats_the_plan_on_a_runtime_without_the_fault(monkeypatch):
    feeds = {**FEEDS, "c": np.array(True)}
    report, _ = quantized(IF, feeds, format="weight-only", portable=True)
    monkeypatch.setattr(trying, "present", lambda names, target: frozenset())
    model = model_from_text(HEAD.format(opset=21) + IF)
    again = onnxq.quantize(model, calibration=[feeds], recipe=report.recipe, check=False)
    assert again.plan == report.plan
    assert again.recipe == report.recipe


def test_an_unknown_fault_is_refused_with_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'nbits-in-body'"):
        quantized(CHAIN, FEEDS, faults=["nbits-in-bdy"])
