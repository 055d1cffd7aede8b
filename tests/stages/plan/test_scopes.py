"""Quantizing what lies inside If, Loop and Scan: in every format, weights of the body and of outer scopes alike."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxq.data import open_source, signature
from onnxq.evaluate.tensors import tensor_errors
from onnxq.graph.text import model_from_text
from onnxq.graph.walk import bodies, nodes
from onnxq.progress import Silent
from onnxq.runtime.readback import op_name, optimized_graph
from onnxq.runtime.session import run_model
from onnxq.stages.calibrate import calibrate
from onnxq.stages.plan import examine, make_plan
from onnxq.stages.prepare import prepare
from onnxq.stages.rewrite import rewrite, simulate
from onnxq.targets import targets
from onnxq.types.recipe import Recipe
from tests.support.quantizing import text

FORMATS = ["qdq", "qoperator", "dynamic", "weight-only"]
EVERYWHERE = {"placement": "everywhere"}

IF = text(
    """a = Conv (x, w0, b0)
       y = If (c) <then_branch = t () => (float[1,8,10,10] ty) {
           t1 = Conv <pads = [1, 1, 1, 1]> (a, w1, b1)  t2 = Relu (t1)  ty = Conv <pads = [1, 1, 1, 1]> (t2, w2) },
         else_branch = e () => (float[1,8,10,10] ey) {
           e1 = Conv <pads = [1, 1, 1, 1]> (a, w2, b1)  e2 = Conv <pads = [1, 1, 1, 1]> (x2, w3)
           ey = Add (e1, e2) }>""",
    "float[1,4,12,12] x, float[1,4,10,10] x2, bool c",
    "float[1,8,10,10] y",
    "float[8,4,3,3] w0, float[8] b0, float[8,8,3,3] w1, float[8,8,3,3] w2, float[8] b1, float[8,4,3,3] w3",
)
LOOP = text(
    """on = Constant <value = bool {1}> ()
       y, all = Loop (times, on, x) <body = l (int64 i, bool go, float[4,32] v) =>
                                             (bool more, float[4,32] u, float[4,16] s) {
           more = Identity (go)  p = MatMul (v, w1)  r = Relu (p)  q = MatMul (r, w2)
           u = Softmax (q)  s = MatMul (u, w3) }>""",
    "float[4,32] x, int64 times",
    "float[4,32] y, float[N,4,16] all",
    "float[32,64] w1, float[64,32] w2, float[32,16] w3",
)
SCAN = text(
    """h, all = Scan <num_scan_inputs = 1, body = s (float[1,32] before, float[1,16] row) =>
                                                 (float[1,32] after, float[1,8] o) {
           p = MatMul (row, w1)  q = MatMul (before, w2)  r = Add (p, q)  after = Tanh (r)  o = MatMul (after, w3)
       }> (start, rows)""",
    "float[1,32] start, float[5,1,16] rows",
    "float[1,32] h, float[5,1,8] all",
    "float[16,32] w1, float[32,32] w2, float[32,8] w3",
)


def normal(*shape):
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


X, X2 = normal(1, 4, 12, 12), normal(1, 4, 10, 10)
CASES = {
    "if": (IF, [{"x": X, "x2": X2, "c": np.array(choice)} for choice in (True, False)]),
    "loop": (LOOP, [{"x": normal(4, 32), "times": np.array(3)}]),
    "scan": (SCAN, [{"start": normal(1, 32), "rows": normal(5, 1, 16)}]),
}


def with_own_weights(model: ir.Model) -> ir.Model:
    """Move each weight that only one body reads into that body."""
    for name, value in list(model.graph.initializers.items()):
        readers = {use.node.graph for use in value.uses()}
        if len(readers) == 1 and model.graph not in readers:
            del model.graph.initializers[name]
            readers.pop().register_initializer(value)
    return model


def quantized(model, feeds, **options):
    """Prepare, calibrate, plan and rewrite; returns the prepared model, plan and result."""
    prepared = prepare(model).model
    recipe = Recipe.parse(options)
    target = targets.get(recipe.target)
    examined = examine(prepared, recipe, target)
    wanted = examined.observed
    statistics = calibrate(prepared, wanted, open_source(list(feeds), signature(model), batch_size=None))
    plan = make_plan(examined, statistics)
    made, _ = rewrite(prepared, plan)
    onnx.checker.check_model(ir.to_proto(made), full_check=True)
    return prepared, plan, made


def sqnr(before, after, feeds, *, optimize):
    worst = np.inf
    for feed in feeds:
        expected, found = run_model(before, feed), run_model(after, feed, optimize=optimize)
        for name, reference in expected.items():
            noise = np.sum(np.square(reference.astype(np.float64) - found[name]))
            signal = np.sum(np.square(reference.astype(np.float64)))
            worst = min(worst, 10 * np.log10(signal / noise) if noise else np.inf)
    return worst


def inside(model: ir.Model) -> dict[str, int]:
    """Operators inside of bodies, and how many of each."""
    found: dict[str, int] = {}
    for graph in bodies(model):
        for node in graph if graph is not model.graph else ():
            name = op_name(node).rpartition("::")[2]
            found[name] = found.get(name, 0) + 1
    return found


@pytest.mark.parametrize("own", [False, True], ids=["captured", "own"])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_bodies_are_quantized_in_every_format(case, form, own):
    source, feeds = CASES[case]
    model = model_from_text(source)
    if own:
        with_own_weights(model)
    _, plan, made = quantized(model, feeds, format=form, **EVERYWHERE)
    kept = {d.node: d.reason.code for d in plan.decisions if d.op in ("Conv", "MatMul") and d.action == "keep"}
    assert not kept
    for optimize in (False, True):
        assert sqnr(model, made, feeds, optimize=optimize) > (15 if form == "weight-only" else 28)
    ran = inside(optimized_graph(made, layout=False))
    assert not {"Conv", "MatMul"} & set(ran) or form == "weight-only"
    if form == "weight-only" and case != "if":
        assert "MatMulNBits" in ran


@pytest.mark.parametrize("form", FORMATS)
def test_a_weight_that_both_branches_read_is_stored_once_and_its_float_copy_is_gone(form):
    model = model_from_text(
        text(
            """y = If (c) <then_branch = t () => (float[4,64] ty) { ty = MatMul (x, w) },
                           else_branch = e () => (float[4,64] ey) { e1 = Neg (x)  ey = MatMul (e1, w) }>""",
            "float[4,256] x, bool c",
            "float[4,64] y",
            "float[256,64] w",
        )
    )
    feeds = [{"x": normal(4, 256), "c": np.array(choice)} for choice in (True, False)]
    _, _, made = quantized(model, feeds, format=form, weights="int8", **EVERYWHERE)
    big = [
        value.const_value.shape.numpy()
        for graph in bodies(made)
        for value in graph.initializers.values()
        if value.const_value.size >= 256 * 64 / 2
    ]
    assert len(big) == 1
    assert sum(value.const_value.nbytes for graph in bodies(made) for value in graph.initializers.values()) < 256 * 80
    for optimize in (False, True):
        assert sqnr(model, made, feeds, optimize=optimize) > 30


def test_a_branch_that_never_ran_stays_in_float_and_is_named():
    model = model_from_text(IF)
    _, feeds = CASES["if"]
    prepared, plan, made = quantized(model, feeds[:1], **EVERYWHERE)
    assert plan.warnings == (
        "else_branch of 'If_1' never ran during calibration: 3 nodes stay in float; "
        "calibrate with samples that take it",
    )
    reasons = {entry.node: entry.reason.code for entry in plan.decisions}
    assert {code for name, code in reasons.items() if "else_branch" in name} == {"not-observed"}
    assert {code for name, code in reasons.items() if "then_branch" in name} == {"integer-kernel", "absorbed"}
    # The branch left in float only loses what quantizing its input loses.
    assert sqnr(model, made, feeds, optimize=True) > 28
    assert {error.node for error in errors(prepared, made, feeds[:1], plan)} == {
        name for name, code in reasons.items() if code in ("integer-kernel", "absorbed")
    }


def errors(prepared, made, feeds, plan):
    source = open_source(list(feeds), signature(prepared), batch_size=None)
    return tensor_errors(prepared, made, source, plan, threads=1, progress=Silent())


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_the_error_of_every_node_in_a_body_is_told(case, form):
    source, feeds = CASES[case]
    prepared, plan, made = quantized(model_from_text(source), feeds, format=form, **EVERYWHERE)
    seen = {error.node: error.sqnr for error in errors(prepared, made, feeds, plan)}
    assert {name for name, node in nodes(prepared) if node.op_type in ("Conv", "MatMul")} <= {
        *seen,
        *absorbing(plan),
    }
    assert min(seen.values()) > 13


def absorbing(plan):
    """Nodes whose codes are those of the clamp behind them, which is reported instead."""
    return {entry.node for entry in plan.decisions if entry.action == "quantize" and not entry.outputs}


@pytest.mark.parametrize("case", CASES)
def test_simulation_reaches_into_bodies(case):
    source, feeds = CASES[case]
    prepared, plan, made = quantized(model_from_text(source), feeds, **EVERYWHERE)
    assert sqnr(made, simulate(prepared, plan), feeds, optimize=False) > 40


@pytest.mark.parametrize("case", CASES)
def test_statistics_of_bodies_do_not_depend_on_memory(case):
    source, feeds = CASES[case]
    prepared = prepare(model_from_text(source)).model
    wanted = examine(prepared, Recipe(), targets.get("cpu")).observed

    def observed(memory):
        found = calibrate(
            prepared, wanted, open_source(feeds, signature(prepared), batch_size=None), memory=memory, threads=1
        )
        return {
            name: (seen.minimum, seen.maximum, seen.count, seen.histogram.counts.tolist())
            for name, seen in found.tensors.items()
        }

    assert observed(1 << 30) == observed(1 << 10)


def test_what_cannot_be_observed_says_so():
    model = model_from_text(
        text(
            """y = Scan <num_scan_inputs = 1, body = s (float[4,32] row) => (float[4,16] o) {
                   o = If (c) <then_branch = t () => (float[4,16] p) { p = MatMul (row, w) },
                               else_branch = e () => (float[4,16] q) { q = MatMul (row, v) }> }> (rows)""",
            "float[3,4,32] rows, bool c",
            "float[3,4,16] y",
            "float[32,16] w, float[32,16] v",
        )
    )
    feeds = [{"rows": normal(3, 4, 32), "c": np.array(True)}]
    _, plan, _ = quantized(model, feeds)
    reasons = {entry.node: entry.reason for entry in plan.decisions}
    assert reasons["Scan_0/body/If_0/then_branch/MatMul_0"].code == "hidden"
    assert (
        reasons["Scan_0/body/If_0/then_branch/MatMul_0"].text
        == "values of If inside Scan cannot be observed, and format qdq needs ranges"
    )
    _, plan, made = quantized(model, feeds, format="dynamic", **EVERYWHERE)
    assert [entry.action for entry in plan.decisions if entry.op == "MatMul"] == ["quantize", "quantize"]
    assert sqnr(model, made, feeds, optimize=True) > 30


def test_branches_that_use_the_same_names_are_told_apart():
    branch = "{{ a = MatMul (x, w{0})  r = Relu (a)  y = MatMul (r, v{0}) }}"
    model = model_from_text(
        text(
            f"y0 = If (c) <then_branch = t () => (float[4,16] y) {branch.format(1)}, "
            f"else_branch = e () => (float[4,16] y) {branch.format(2)}>",
            "float[4,32] x, bool c",
            "float[4,16] y0",
            "float[32,64] w1, float[64,16] v1, float[32,64] w2, float[64,16] v2",
        )
    )
    w2 = model.graph.initializers["w2"]
    w2.const_value = ir.tensor(w2.const_value.numpy() * 100)  # one range for both would lose the smaller one
    feeds = [{"x": normal(4, 32), "c": np.array(choice)} for choice in (True, False)]
    _, _, made = quantized(model, feeds, **EVERYWHERE)
    for optimize in (False, True):
        assert sqnr(model, made, feeds, optimize=optimize) > 30


def test_local_functions_are_quantized_as_what_they_do():
    model = ir.from_onnx_text(
        """<ir_version: 9, opset_import: ["" : 17, "local" : 1]>
        g (float[4,8] x, float[8,8] w0) => (float[4,8] y) { a = local.layer <k = 1> (x)  y = local.layer <k = 1> (a) }
        <domain: "local", opset_import: ["" : 17]> layer <k> (x) => (y) {
            w = Constant <value = float[8,2] {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}> ()
            t = Transpose <perm = [1, 0]> (w)  p = MatMul (x, w)  r = Relu (p)  y = MatMul (r, t) }"""
    )
    feeds = [{"x": normal(4, 8), "w0": normal(8, 8)}]
    _, plan, made = quantized(model, feeds, **EVERYWHERE)
    assert [entry.action for entry in plan.decisions if entry.op == "MatMul"] == ["quantize"] * 4
    assert sqnr(model, made, feeds, optimize=True) > 25


@pytest.mark.parametrize("opset", [11, 13, 14, 22])
def test_bodies_are_observed_at_any_opset(opset):
    model = onnx.parser.parse_model(
        f"""<ir_version: 6, opset_import: ["" : {opset}]>
        g (float[4,32] x, bool c) => (float[4,16] y) {{
            y = If (c) <then_branch = t () => (float[4,16] ty) {{ ty = MatMul (x, w) }},
                        else_branch = e () => (float[4,16] ey) {{ n = Neg (x)  ey = MatMul (n, w) }}> }}"""
    )
    model.ir_version = 6 if opset < 14 else 10
    model.graph.initializer.append(onnx.numpy_helper.from_array(normal(32, 16), "w"))
    model = ir.from_proto(model)
    feeds = [{"x": normal(4, 32), "c": np.array(choice)} for choice in (True, False)]
    _, plan, made = quantized(model, feeds, **EVERYWHERE)
    assert [entry.action for entry in plan.decisions if entry.op == "MatMul"] == ["quantize"] * 2
    assert sqnr(model, made, feeds, optimize=True) > 30
