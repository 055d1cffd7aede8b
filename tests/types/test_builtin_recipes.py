"""Every built-in recipe does what its name says, on a model that has something for each of them."""

import numpy as np
import onnxq
import pytest
from onnxq.errors import RecipeError
from onnxq.graph.text import model_from_text
from onnxq.recipes import recipe_names, recipe_text
from onnxq.stages.make_recipe import make_recipe
from onnxq.types.plan import Action
from tests.quantizing import text

MODEL = text(
    "h = MatMul (x, w) r = Relu (h) y = MatMul (r, v)",
    "float[64,256] x",
    "float[64,256] y",
    "float[256,256] w, float[256,256] v",
)
FOUR_BITS = ("int4", "awq-int4", "gptq-int4", "zeroquant")
DATA = [{"x": np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)}]


@pytest.mark.parametrize("name", [name for name in recipe_names() if name != "w8a16"])
def test_a_recipe_quantizes_and_is_near(name):
    report = onnxq.quantize(model_from_text(MODEL), calibration=DATA, recipe=name, guard=False)
    written = {entry.format for entry in report.plan.decisions if entry.action is Action.QUANTIZE}
    assert written == (set() if name == "fp16" else {make_recipe(name).format})
    assert report.verification.outputs[0].sqnr_served > (15 if name in FOUR_BITS else 25)


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
