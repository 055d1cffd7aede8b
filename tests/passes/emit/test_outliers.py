"""Features that stay in float beside 8-bit products: against numpy, in every form, and what the plan says of them."""

import numpy as np
import onnxq
import pytest
from onnxq.errors import RecipeError
from onnxq.files.plan import plan_from_json, plan_to_json
from onnxq.graph.text import model_from_text
from onnxq.runtime.session import run_model
from onnxq.stages.rewrite import simulate
from onnxq.types.plan import FloatFeatures
from tests.support.integers import accumulated
from tests.support.quantizing import quantize_text, text

LLM_INT8 = {
    "format": "dynamic",
    "placement": "everywhere",
    "activations": "uint8,symmetric,per-token,outliers=6",
    "weights": "int8,symmetric,per-channel",
}
LARGE = (3, 17)
FORMS = {
    "matmul": ("y = MatMul (x, w)", "2,7,24", "24,10", "2,7,10"),
    "stack": ("y = MatMul (x, w)", "3,7,24", "3,24,10", "3,7,10"),
    "gemm": ("y = Gemm (x, w)", "7,24", "24,10", "7,10"),
    "turned": ("y = Gemm <transB = 1, alpha = -0.5> (x, w)", "7,24", "10,24", "7,10"),
}


def values(shape):
    """About N(0, 1), except two features that are 40 times as large."""
    x = np.random.default_rng(3).standard_normal([int(extent) for extent in shape.split(",")]).astype(np.float32)
    x[..., list(LARGE)] *= 40
    return x


def quantized(form="matmul", **options):
    body, x, w, y = FORMS[form]
    feeds = {"x": values(x)}
    graph = text(body, f"float[{x}] x", f"float[{y}] y", f"float[{w}] w")
    return quantize_text(graph, feeds, **{**LLM_INT8, **options})


def weight_of(done, form):
    """Return the float weight as the product has it, (..., features, columns)."""
    weight = done.float_model.graph.initializers["w"].const_value.numpy()
    return np.float32(-0.5) * weight.T if form == "turned" else weight


def stored(done, what):
    return done.model.graph.initializers[f"w/{what}"].const_value.numpy()


@pytest.mark.parametrize("form", FORMS)
def test_the_codes_of_the_weight_are_those_of_the_paper(form):
    """LLM.int8(): the largest of each column, large features left out, is 127."""
    done = quantized(form, target="cpu-vnni")
    rest = weight_of(done, form).astype(np.float64)
    rest[..., list(LARGE), :] = 0
    largest = np.abs(rest).max(axis=tuple(range(rest.ndim - 1)))
    np.testing.assert_array_equal(np.abs(stored(done, "scale")), np.float32(largest / 127))
    np.testing.assert_array_equal(stored(done, "quantized"), np.rint(rest / np.float64(stored(done, "scale"))))


@pytest.mark.parametrize("target", ["cpu-avx2", "cpu-vnni"])
@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_the_product_is_that_of_the_paper(form, optimize, target):
    """Rows of x times the stored codes of w in 8 bits, as this processor adds them; large features in float64."""
    done = quantized(form, target=target)
    x, weight = done.feeds["x"], weight_of(done, form)
    rows = x.copy()
    rows[..., list(LARGE)] = 0
    scale = np.abs(rows).max(axis=-1, keepdims=True) / np.float32(127)
    codes = (np.rint(rows / scale) + 128).astype(np.uint8)
    sums = accumulated(codes, stored(done, "quantized"), a_zero=128)
    exact = x[..., LARGE].astype(np.float64) @ weight[..., LARGE, :].astype(np.float64)
    expected = sums * np.float64(scale) * np.float64(stored(done, "scale")) + exact
    found = run_model(done.model, dict(done.feeds), optimize=optimize)["y"]
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("activations", ["uint8,symmetric", "uint8,asymmetric", "int8,symmetric,per-token"])
def test_other_schemes_can_leave_features_out_too(activations):
    plain = quantized(activations=activations)
    split = quantized(activations=f"{activations},outliers=6")
    assert split.sqnr(optimize=True) > plain.sqnr(optimize=True) + 15
    assert split.sqnr(optimize=True) == pytest.approx(split.sqnr(optimize=False), abs=0.1)


@pytest.mark.parametrize("form", FORMS)
def test_the_simulation_keeps_them_too(form):
    done = quantized(form)
    expected = run_model(simulate(done.float_model, done.plan), dict(done.feeds))["y"]
    found = run_model(done.model, dict(done.feeds), optimize=False)["y"]
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_the_plan_names_them_and_says_what_they_take():
    done = quantized()
    features = FloatFeatures(indices=LARGE, count=24)
    assert {name: tensor.in_float for name, tensor in done.plan.tensors.items()} == {
        "x@dynamic": features,
        "w": features,
    }
    assert "2 of 24 features reached 6, the largest" in done.plan.tensors["x@dynamic"].reason
    (decision,) = done.plan.decisions
    assert decision.reason.code == "features-in-float"
    assert decision.reason.text.endswith("2 of 24 features are multiplied in float, 0.08 kB of weights")
    assert plan_from_json(plan_to_json(done.plan)) == done.plan


def test_readers_of_one_tensor_share_what_is_split():
    graph = text(
        "y = MatMul (x, w) z = MatMul (x, v)",
        "float[7,24] x",
        "float[7,10] y, float[7,12] z",
        "float[24,10] w, float[24,12] v",
    )
    done = quantize_text(graph, {"x": values("7,24")}, **LLM_INT8)
    ops = [node.op_type for node in done.model.graph]
    assert (ops.count("Gather"), ops.count("ReduceMax"), ops.count("MatMul")) == (1, 1, 2)


def test_without_large_features_nothing_is_added():
    done = quantized(activations="uint8,symmetric,per-token,outliers=1000")
    plain = quantized(activations="uint8,symmetric,per-token")
    assert [node.op_type for node in done.model.graph] == [node.op_type for node in plain.model.graph]
    assert done.plan.tensors["x@dynamic"].in_float is None
    assert "0 of 24 features reached 1000" in done.plan.tensors["x@dynamic"].reason


def test_where_many_features_are_large_none_stands_out():
    done = quantized(activations="uint8,symmetric,per-token,outliers=0.01")
    assert done.plan.tensors["x@dynamic"].in_float is None
    reason = done.plan.tensors["x@dynamic"].reason
    assert "24 of 24 features reached 0.01" in reason
    assert "do not stand out, none stays in float" in reason


def test_weight_methods_see_zeros_where_weights_stay_in_float():
    method = {"weights": {"dtype": "int8", "symmetric": True, "granularity": "per-channel", "method": "gptq:sweeps=1"}}
    feeds = {"x": values("64,24")}
    graph = text("y = MatMul (x, w)", "float[64,24] x", "float[64,10] y", "float[24,10] w")
    done = quantize_text(graph, feeds, **{**LLM_INT8, **method})
    codes = next(v.const_value.numpy() for n, v in done.model.graph.initializers.items() if n.endswith("/quantized"))
    assert not codes[list(LARGE)].any()
    assert done.sqnr(optimize=True) > 40


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_calibrated_formats_refuse(form):
    with pytest.raises(RecipeError, match=f"format {form} leaves no features out; give it format dynamic"):
        quantized(format=form)


def test_features_along_another_axis_are_refused():
    graph = text("y = Gemm <transA = 1> (x, w)", "float[24,7] x", "float[7,10] y", "float[24,10] w")
    with pytest.raises(RecipeError, match="transA = 1 has features along its first axis"):
        quantize_text(graph, **LLM_INT8)


def test_operators_without_it_stay_in_float():
    graph = text("y = Conv (x, w)", "float[1,4,8,8] x", "float[1,6,6,6] y", "float[6,4,3,3] w")
    with pytest.raises(RecipeError, match="no kernel leaves features out; take `outliers` out"):
        quantize_text(graph, **{**LLM_INT8, "activations": "uint8,outliers=6"})


@pytest.mark.parametrize("wrong", ["uint8,outliers=0", "uint8,outliers=-6", "uint8,outliers=inf"])
def test_thresholds_are_positive_and_finite(wrong):
    with pytest.raises(RecipeError, match="activations"):
        onnxq.Recipe.parse({"activations": wrong})


def test_weights_have_none():
    with pytest.raises(RecipeError, match=r"unknown key 'weights\.outliers'"):
        onnxq.Recipe.parse({"weights": "int8,outliers=6"})


def test_the_recipe_needs_no_more_than_data():
    graph = text("y = MatMul (x, w)", "float[7,24] x", "float[7,10] y", "float[24,10] w")
    report = onnxq.quantize(model_from_text(graph), calibration=[{"x": values("7,24")}], recipe="llm-int8", guard=False)
    assert report.plan.tensors["w"].in_float == FloatFeatures(indices=LARGE, count=24)


def test_layers_behind_see_the_float_part_too():
    """Codes are chosen layer by layer: the second layer must not read a first one without its large features."""
    graph = text(
        "h = MatMul (x, w) y = MatMul (h, v)", "float[64,24] x", "float[64,10] y", "float[24,12] w, float[12,10] v"
    )
    method = {"dtype": "int8", "symmetric": True, "granularity": "per-channel", "method": "gptq:sequential=true"}
    report = onnxq.quantize(
        model_from_text(graph),
        calibration=[{"x": values("64,24")}],
        recipe="llm-int8",
        weights=method,
        rules=[{"match": {"name": "*"}, "activations": {"outliers": 100}}],
        guard=False,
    )
    assert report.plan.tensors["w"].in_float is not None
    assert report.verification.outputs[0].sqnr_served > 35


@pytest.mark.parametrize("target", ["cpu-avx2", "cpu-vnni"])
def test_every_processor_has_it(target):
    done = quantized(target=target)
    assert done.plan.tensors["w"].in_float == FloatFeatures(indices=LARGE, count=24)
    assert done.sqnr(optimize=True) > 35
