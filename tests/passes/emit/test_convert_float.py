"""float16 and bfloat16: what is stored and computed in them, that it computes the same, and that the edges stay."""

import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxq
import pytest
from onnxq.errors import RecipeError
from onnxq.files.plan import plan_from_json, plan_to_json
from onnxq.graph.tensors import total_bytes
from onnxq.graph.text import model_from_text
from onnxq.stages.plan import examine, make_plan
from onnxq.stages.rewrite import rewrite
from onnxq.targets import targets
from onnxq.types.float_type import FloatType
from onnxq.types.recipe import Recipe
from onnxq.types.statistics import Statistics
from tests.support.quantizing import Quantized, quantize_model, quantize_text, text

KEEP = [{"match": {"name": "*"}, "keep": "float"}]
RNG = np.random.default_rng(3)
SHORT = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
LEAST = {"float16": 55, "bfloat16": 38}  # 11 and 8 bits of precision, 6 dB each, less a little
MLP = text(
    "h = MatMul (x, w) b1 = Add (h, b) r = Relu (b1) s = Softmax (r) y = MatMul (s, v)",
    "float[4,64] x",
    "float[4,64] y",
    "float[64,64] w, float[64] b, float[64,64] v",
)


def model(source, **values):
    """Return a model whose constants are N(0, 1), or as given."""
    made = model_from_text(source)
    for name, value in made.graph.initializers.items():
        if name in values:
            value.const_value = ir.tensor(np.asarray(values[name], np.float32), name=name)
    return made


def converted(source, float_type="float16", target="cuda", rules=KEEP, **options):
    options = {"format": "dynamic" if target == "cuda" else "qdq"} | options
    made = source if isinstance(source, ir.Model) else model_from_text(source)
    return quantize_model(made, float_type=float_type, target=target, rules=rules, **options)


def ops(made):
    return [node.op_type for node in made.model.graph]


def float_reasons(done):
    return {entry.node: entry.float_reason.code for entry in done.plan.decisions if entry.float_reason is not None}


def edges(made):
    return [(value.name, value.dtype) for value in (*made.graph.inputs, *made.graph.outputs)]


def both(done, least):
    assert done.sqnr(optimize=False) > least
    assert done.sqnr(optimize=True) > least


@pytest.mark.parametrize("float_type", ["float16", "bfloat16"])
def test_weights_take_half_where_the_target_computes_in_float32(float_type):
    done = converted(MLP, float_type, target="cpu")
    stored = {name: value.dtype for name, value in done.model.graph.initializers.items()}
    assert sorted(stored.values()) == sorted([SHORT[float_type]] * 2 + [ir.DataType.FLOAT])  # the small bias stays
    assert ops(done).count("Cast") == 2
    assert set(float_reasons(done).values()) == {"no-kernel"}
    assert total_bytes(done.model) < 0.52 * total_bytes(done.float_model)
    assert edges(done.model) == edges(done.float_model)
    assert "Cast" not in done.kernels(), "onnxruntime casts constants when it loads the model"
    both(done, LEAST[float_type])


def test_a_target_that_computes_in_float16_gets_one_cast_an_edge():
    done = converted(MLP)
    assert ops(done) == ["Cast", "MatMul", "Add", "Relu", "Softmax", "MatMul", "Cast"]
    assert {value.dtype for value in done.model.graph.initializers.values()} == {ir.DataType.FLOAT16}
    assert sorted(done.model.graph.initializers) == ["b", "v", "w"]
    assert edges(done.model) == edges(done.float_model)
    assert {entry.float_type for entry in done.plan.decisions} == {FloatType.FLOAT16}
    both(done, 50)


def test_a_value_read_in_both_types_and_returned_is_cast_once():
    source = text(
        "a = MatMul (x, w) e = Exp (a) l = Log (e) c = Relu (a) d = Sigmoid (a) y = Add (c, d)",
        "float[4,64] x",
        "float[4,64] y, float[4,64] a, float[4,64] l",
        "float[64,64] w",
    )
    done = converted(source)
    codes = float_reasons(done)
    assert [code for code in codes.values() if code == "precision"] == ["precision"] * 2
    assert ops(done).count("Cast") == 3  # x, a for all its readers in float32, y
    assert edges(done.model) == edges(done.float_model)
    both(done, 50)


@pytest.mark.parametrize(
    ("value", "words"), [(-3.4e38, "holds 3.4e[+]38, and float16 ends at 65504"), (1e-12, "as small as 1e-12")]
)
def test_a_constant_that_float16_cannot_hold_keeps_its_reader_in_float32(value, words):
    source = text("h = MatMul (x, w) g = Max (h, m) y = MatMul (g, v)", "float[4,64] x", "float[4,64] y", WEIGHTS)
    done = converted(model(source, m=np.full((64,), value)))
    kept = next(entry for entry in done.plan.decisions if entry.op == "Max")
    assert (kept.float_type, kept.float_reason.code) == (FloatType.FLOAT32, "constant")
    assert done.model.graph.initializers["m"].dtype == ir.DataType.FLOAT
    assert done.plan.constants["m"].float_type is FloatType.FLOAT32
    assert re.search(words, kept.float_reason.text)
    assert any("'m'" in warning for warning in done.plan.warnings)
    both(done, 50)


WEIGHTS = "float[64,64] w, float[64] m, float[64,64] v"


def test_bfloat16_holds_what_float16_does_not_but_not_the_largest_float32():
    source = text(
        "h = MatMul (x, w) y = Add (h, m)", "float[4,256] x", "float[4,256] y", "float[256,256] w, float[256] m"
    )
    for value, stored in ((-1e9, FloatType.BFLOAT16), (np.finfo(np.float32).min, FloatType.FLOAT32)):
        mask = np.full((256,), value, np.float32)
        done = converted(model(source, m=mask), "bfloat16", target="cpu")
        constant = done.plan.constants["m"]
        assert constant.float_type is stored
        assert (constant.reason.code == "misfit") == (value < -1e9)


def test_a_weight_of_nodes_in_both_types_is_stored_once():
    source = text(
        "h = MatMul (x, w) e = Pow (w, w) y = MatMul (h, e)", "float[4,64] x", "float[4,64] y", "float[64,64] w"
    )
    done = converted(model(source, w=np.full((64, 64), 0.1)))
    assert [value.dtype for value in done.model.graph.initializers.values()] == [ir.DataType.FLOAT16]
    both(done, 50)


def test_islands_without_a_product_stay_in_float32():
    done = converted(text("a = Relu (x) y = Transpose (a)", "float[4,8] x", "float[8,4] y"))
    assert ops(done) == ["Relu", "Transpose"]
    assert set(float_reasons(done).values()) == {"cheaper-in-float32"}


def test_an_attribute_that_sets_the_type_is_left_alone():
    source = text(
        "a = MatMul (x, w) c = Cast <to = 1> (a) s = Shape (c) z = ConstantOfShape (s) y = Add (c, z)",
        "float[4,64] x",
        "float[4,64] y",
        "float[64,64] w",
    )
    done = converted(source)
    both(done, 50)


def test_resize_keeps_its_scales():
    source = text(
        "c = Conv <pads = [1, 1, 1, 1]> (x, w) y = Resize (c, , s)",
        "float[1,4,6,6] x",
        "float[1,8,12,12] y",
        "float[8,4,3,3] w, float[4] s = {1, 1, 2, 2}",
    )
    done = converted(source)
    assert done.model.graph.initializers["s"].dtype == ir.DataType.FLOAT
    both(done, 50)


def with_inner_weight(made, graph_of):
    """Move the constant k into a body, where its first node reads it."""
    body = graph_of(made)
    outer = made.graph.initializers.pop("k")
    inner_k = ir.Value(name="k", type=outer.type, shape=outer.shape, const_value=outer.const_value)
    body.register_initializer(inner_k)
    body[0].replace_input_with(1, inner_k)
    return made


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_branches_compute_short_and_return_what_they_did(flag, inside):
    source = text(
        """h = MatMul (x, w)
        y = If (c) <then_branch = t () => (float[4,64] u) { u = MatMul (h, k) },
                    else_branch = e () => (float[4,64] n) { g = MatMul (h, k) n = Relu (g) }>""",
        "float[4,64] x, bool c",
        "float[4,64] y",
        "float[64,64] w, float[64,64] k",
    )
    if inside:
        source = source.replace("g = MatMul (h, k)", "g = MatMul (h, w)")
    made = model_from_text(source)
    if inside:
        made = with_inner_weight(made, lambda made: made.graph[1].attributes["then_branch"].as_graph())
    feeds = {"x": RNG.standard_normal((4, 64)).astype(np.float32), "c": np.array(flag)}
    done = quantize_model(made, feeds, float_type="float16", target="cuda", format="dynamic", rules=KEEP)
    computed = {entry.op: entry.float_type for entry in done.plan.decisions}
    assert computed["MatMul"] == computed["Relu"] == FloatType.FLOAT16
    for graph in done.model.graph.subgraphs():
        assert [value.dtype for value in graph.outputs] == [ir.DataType.FLOAT]
        assert {value.dtype for value in graph.initializers.values()} <= {ir.DataType.FLOAT16}
    both(done, 50)


def test_loops_carry_float32_and_compute_short():
    source = text(
        """y, all = Loop (n, , x) <body = b (int64 i, bool go, float[4,64] s) => (bool on, float[4,64] t, float[4,64] o)
            { on = Identity (go) m = MatMul (s, k) a = Add (m, x) t = Tanh (a) o = Relu (a) }>""",
        "float[4,64] x, int64 n",
        "float[4,64] y, float[3,4,64] all",
        "float[64,64] k",
    )
    feeds = {"x": RNG.standard_normal((4, 64)).astype(np.float32), "n": np.array(3)}
    done = quantize_model(
        model_from_text(source), feeds, float_type="float16", target="cuda", format="dynamic", rules=KEEP
    )
    body = next(iter(done.model.graph.subgraphs()))
    assert [value.dtype for value in body.inputs] == [ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.FLOAT]
    assert [value.dtype for value in body.outputs] == [ir.DataType.BOOL, ir.DataType.FLOAT, ir.DataType.FLOAT]
    product = next(node for node in body if node.op_type == "MatMul")
    assert {value.dtype for value in (*product.inputs, *product.outputs)} == {ir.DataType.FLOAT16}
    # What the body reads from outside is cast there, not in each turn.
    assert sum(node.op_type == "Cast" for node in body) == 3
    assert sum(node.op_type == "Cast" for node in done.model.graph) == 1
    both(done, 50)


def test_integer_kernels_are_what_they_were_without_it():
    source = text(
        "c = Conv <pads = [1, 1, 1, 1]> (x, w) r = Relu (c) f = Flatten (r) t = Tanh (f) y = Gemm (t, v, b)",
        "float[1,8,8,8] x",
        "float[1,16] y",
        "float[8,8,3,3] w, float[512,16] v, float[16] b",
    )
    made = model_from_text(source)
    rules = [{"match": {"op": "Gemm"}, "keep": "float"}]
    plain = quantize_model(made, rules=rules, placement="everywhere")
    short = quantize_model(made, rules=rules, placement="everywhere", float_type="float16")
    assert plain.kernels() == short.kernels()
    assert short.plan.tensors == plain.plan.tensors
    assert float_reasons(short)[next(e.node for e in short.plan.decisions if e.op == "Conv")] == "quantized"
    assert total_bytes(short.model) < 0.65 * total_bytes(plain.model)
    both(short, 25)


@pytest.mark.parametrize("form", ["dynamic", "weight-only", "qoperator"])
def test_every_format_takes_it(form):
    rules = [{"match": {"name": "MatMul_4"}, "keep": "float"}]
    done = converted(MLP, target="cpu", rules=rules, format=form, placement="everywhere")
    assert SHORT["float16"] in {value.dtype for value in done.model.graph.initializers.values()}
    both(done, 15)


def test_nodes_beside_integer_products_compute_in_float16():
    rules = [{"match": {"name": "MatMul_4"}, "keep": "float"}]
    done = converted(MLP, rules=rules)
    assert "MatMulInteger" in ops(done)
    assert float_reasons(done)["MatMul_4"] == "kernel"
    assert float_reasons(done)["MatMul_0"] == "quantized"
    both(done, 25)


def test_float32_changes_nothing():
    done = converted(MLP, "float32")
    assert not done.plan.constants
    assert {entry.float_type for entry in done.plan.decisions} == {None}
    assert "Cast" not in ops(done)


def test_the_plan_comes_back_from_json():
    plan = converted(MLP).plan
    assert plan_from_json(plan_to_json(plan)) == plan


def test_the_report_of_a_whole_run():
    report = onnxq.quantize(model_from_text(MLP), recipe="fp16")
    assert report.quantized_bytes < 0.52 * report.float_bytes
    assert not any("nothing was quantized" in warning for warning in report.warnings)
    assert report.verification.outputs[0].sqnr_served > 55
    onnx.checker.check_model(ir.to_proto(report.model), full_check=True)


def test_the_stored_values_are_the_nearest():
    source = text("y = MatMul (x, w)", "float[4,64] x", "float[4,64] y", "float[64,64] w")
    weights = RNG.standard_normal((64, 64)).astype(np.float32)
    for float_type, dtype in (("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)):
        done = converted(model(source, w=weights), float_type, target="cpu")
        (stored,) = done.model.graph.initializers.values()
        np.testing.assert_array_equal(stored.const_value.numpy(), weights.astype(dtype))


def test_a_misspelt_type():
    with pytest.raises(RecipeError, match="float_type: unknown value 'flaot16'; did you mean 'float16'"):
        quantize_text(MLP, float_type="flaot16")


def for_blocks(source):
    """Quantize to 4 bits in blocks for a CPU that is said to compute in float16."""
    made = source if isinstance(source, ir.Model) else model_from_text(source)
    cpu, cuda = targets.get("cpu"), targets.get("cuda")
    recipe = Recipe.parse({"format": "weight-only", "float_type": "float16"})
    plan = make_plan(examine(made, recipe, replace(cpu, floats=cuda.floats)), Statistics(fingerprint=""))
    done, _ = rewrite(made, plan)
    onnx.checker.check_model(ir.to_proto(done), full_check=True)
    return Quantized(made, plan, done, {"x": RNG.standard_normal((4, 64)).astype(np.float32)})


def test_codes_in_blocks_take_float16_activations_and_scales():
    done = for_blocks(MLP)
    products = [node for node in done.model.graph if node.op_type == "MatMulNBits"]
    assert len(products) == 2
    for node in products:
        assert [node.inputs[slot].dtype for slot in (0, 2)] == [ir.DataType.FLOAT16] * 2
        assert node.outputs[0].dtype == ir.DataType.FLOAT16
    assert ops(done).count("Cast") == 2
    both(done, 15)


def test_scales_too_small_for_float16_keep_the_product_in_float32():
    done = for_blocks(model(MLP, w=RNG.standard_normal((64, 64)) * 1e-5))
    assert float_reasons(done)["MatMul_0"] == "constant"
    assert float_reasons(done)["MatMul_4"] == "kernel"
    both(done, 10)


def test_old_opsets_are_converted():
    report = onnxq.quantize(model_from_text(OLD), **BFLOAT)
    assert report.model.opset_imports[""] >= 13
    with pytest.raises(RecipeError, match="bfloat16 needs opset 13, the prepared model has 11"):
        onnxq.quantize(model_from_text(OLD), passes="fix-names,infer-shapes", **BFLOAT)


OLD = text("y = MatMul (x, w)", "float[4,64] x", "float[4,64] y", "float[64,64] w", 11)
BFLOAT = {"recipe": "fp16", "float_type": "bfloat16"}


@pytest.mark.parametrize("float_type", list(FloatType))
def test_the_recipe_comes_back(float_type):
    recipe = Recipe.parse({"float_type": str(float_type)})
    assert Recipe.parse(recipe.plain()) == recipe
    assert recipe.plain()["float_type"] == str(float_type)
