"""Every built-in recipe does what its name says, on a model that has something for each of them."""

import numpy as np
import onnx_ir as ir
import onnxq
import pytest
from onnxq.errors import RecipeError, VerificationError
from onnxq.files.recipe import make_recipe
from onnxq.graph.text import model_from_text
from onnxq.recipes import recipe_names, recipe_text
from onnxq.runtime.session import run_model
from onnxq.types.plan import Action, Role
from tests.support.quantizing import text

MODEL = text(
    "h = MatMul (x, w) r = Relu (h) y = MatMul (r, v)",
    "float[64,256] x",
    "float[64,256] y",
    "float[256,256] w, float[256,256] v",
)
FOUR_BITS = ("int4", "awq-int4", "gptq-int4", "zeroquant")
DATA = [{"x": np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)}]


@pytest.mark.real_processor
@pytest.mark.parametrize("name", [name for name in recipe_names() if name != "w8a16"])
def test_a_recipe_quantizes_and_is_near(name):
    report = onnxq.quantize(model_from_text(MODEL), calibration=DATA, recipe=name, guard=False)
    written = {entry.format for entry in report.plan.decisions if entry.action is Action.QUANTIZE}
    assert written == (set() if name == "fp16" else {make_recipe(name).format})
    assert report.verification.outputs[0].sqnr_served > (15 if name in FOUR_BITS else 25)


@pytest.mark.parametrize("target", ["cpu-avx2", "cpu-vnni", "cpu-arm64"])
@pytest.mark.parametrize("name", [name for name in recipe_names() if name not in ("w8a16", "fp16")])
def test_a_recipe_quantizes_on_every_processor(name, target):
    plan = onnxq.plan(model_from_text(MODEL), calibration=DATA, recipe=name, target=target)
    assert {entry.action for entry in plan.decisions if entry.op == "MatMul"} == {Action.QUANTIZE}


def test_zero_points_of_weights_are_had_without_vnni_too():
    exact, signed = (
        onnxq.quantize(model_from_text(MODEL), recipe="zeropoint-int8", target=target, check=False)
        for target in ("cpu-avx2", "cpu-vnni")
    )
    assert {str(plan.scheme.dtype) for plan in exact.plan.tensors.values() if plan.role is Role.WEIGHT} == {"uint8"}
    assert any("'MatMul_0' and 1 more are uint8 instead of int8 with zero points" in each for each in exact.warnings)
    simulated = [onnxq.simulate(model_from_text(MODEL), each.plan) for each in (exact, signed)]
    first, second = (next(iter(run_model(each, DATA[0]).values())) for each in simulated)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", ["absmax-int8", "zeropoint-int8", "llm-int8"])
def test_what_a_recipe_leaves_in_float_is_not_what_the_user_asked_for(name):
    """Its rules are for models that hold something else beside; one that holds nothing else is refused."""
    model = model_from_text(text("y = Conv (x, w)", "float[1,4,8,8] x", "float[1,6,6,6] y", "float[6,4,3,3] w"))
    with pytest.raises(VerificationError, match=r"nothing can be quantized: rule 1 \(Conv\): .*; nothing was written"):
        onnxq.quantize(model, recipe=name)
    assert onnxq.quantize(model, recipe=name, allow_empty=True).plan.decisions[0].action is Action.KEEP
    report = onnxq.quantize(model, recipe=name, keep=["Conv_0"])
    assert any("nothing was quantized" in warning for warning in report.warnings)


ENCODER = text(
    "q = MatMul (x, w) k = MatMul (x, v) t = Transpose <perm = [0, 2, 1]> (k) s = MatMul (q, t) p = Softmax (s)"
    " c = MatMul (p, x) o = MatMul (c, u) h = Add (o, x) y = LayerNormalization (h, g)",
    "float[2,32,64] x",
    "float[2,32,64] y",
    "float[64,64] w, float[64,64] v, float[64,64] u, float[64] g",
)


@pytest.fixture(scope="module")
def encoder():
    model = model_from_text(ENCODER)
    rng = np.random.default_rng(0)
    for value in model.graph.initializers.values():
        value.const_value = ir.tensor(rng.standard_normal(value.shape.numpy()).astype(np.float32) / 8, name=value.name)
    return model


def _planned(encoder, recipe):
    data = [{"x": np.random.default_rng(1).standard_normal((2, 32, 64)).astype(np.float32)}]
    made = onnxq.plan(encoder, calibration=data, recipe=recipe)
    return made, [entry for entry in made.decisions if entry.action is Action.QUANTIZE]


def test_mode_1_quantizes_what_products_read_and_nothing_else(encoder):
    made, quantized = _planned(encoder, "ft-int8-mode1")
    assert [entry.op for entry in quantized] == ["MatMul"] * 5
    written = {tensor for entry in quantized for tensor in entry.outputs.values()}
    assert written <= {"q", "c"}  # what the next product reads as it is; scores and residuals stay float
    assert {each.scheme.granularity.kind for each in made.tensors.values() if each.role is Role.WEIGHT} == {
        "per-channel"
    }


def test_mode_2_quantizes_what_products_give_and_residuals_too(encoder):
    made, quantized = _planned(encoder, "ft-int8-mode2")
    by_op = {entry.op: entry for entry in quantized}
    assert {"Add", "MatMul"} <= by_op.keys()
    assert all(entry.outputs for entry in quantized if entry.op == "MatMul")
    assert {each.scheme.granularity.kind for each in made.tensors.values()} == {"per-tensor"}


def test_smoothquant_leaves_products_of_two_activations_in_float(encoder):
    made, quantized = _planned(encoder, "smoothquant-w8a8")
    assert [entry.op for entry in quantized] == ["MatMul"] * 3
    assert any(entry.method == "smoothquant" for entry in made.equalizations)
    kept = [entry.reason for entry in made.decisions if entry.reason.code == "rule"]
    assert [reason.text for reason in kept] == [
        "products of two activations lose most of the accuracy and gain little of the time"
    ] * 2


def test_16_bit_activations_are_refused_where_they_have_no_kernel():
    with pytest.raises(RecipeError, match="no kernel for uint16 activations; take int8 or uint8; format weight-only"):
        onnxq.quantize(model_from_text(MODEL), calibration=DATA, recipe="w8a16")


def test_a_recipe_says_what_it_is_for():
    for name, summary in recipe_names().items():
        assert len(summary) > 30, name
        assert recipe_text(name).startswith(f"# {summary}")


def test_a_misspelt_recipe():
    with pytest.raises(RecipeError, match="unknown recipe 'int8-dinamic'; did you mean 'int8-dynamic'"):
        make_recipe("int8-dinamic")


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_takes_a_model_that_folds_to_nothing(name):
    model = model_from_text(text("y = Identity (c)", "float[2] x", "float[2] y", "float[2] c"))
    report = onnxq.quantize(model, recipe=name, check=False, allow_empty=True)
    assert all(entry.action is Action.KEEP for entry in report.plan.decisions)
