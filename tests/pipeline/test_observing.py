"""Statistics that are given: used where they hold what the recipe needs, refused where they do not."""

import numpy as np
import onnx_ir as ir
import pytest
from onnxq import calibrate, quantize
from onnxq.errors import CalibrationError
from onnxq.graph.text import model_from_text
from onnxq.pipeline.log import Log
from onnxq.pipeline.observing import complete, given_statistics
from onnxq.pipeline.preparing import prepare_model
from onnxq.pipeline.request import make_request
from onnxq.types.recipe import Recipe
from tests.support.quantizing import text

MODEL = text(
    "a = MatMul (x, w) t = Tanh (a) y = MatMul (t, v)",
    "float[8,64] x",
    "float[8,32] y",
    "float[64,48] w, float[48,32] v",
)
WEIGHED = {"format": "weight-only", "weights": {"method": "mse:importance=true"}}


@pytest.fixture
def model():
    return model_from_text(MODEL)


@pytest.fixture
def data():
    return [{"x": np.random.default_rng(seed).standard_normal((8, 64)).astype(np.float32)} for seed in range(3)]


def test_statistics_of_the_same_recipe_give_the_same_model_without_the_data(model, data, tmp_path):
    file = tmp_path / "model.stats.npz"
    calibrate(model, file, calibration=data, **WEIGHED)
    once = quantize(model, calibration=data, check=False, **WEIGHED).model
    again = quantize(model, statistics=file, check=False, **WEIGHED).model
    assert ir.to_proto(once) == ir.to_proto(again)


def test_statistics_without_the_features_that_a_method_goes_by_are_refused(model, data):
    found = calibrate(model, calibration=data, format="qdq", placement="everywhere")
    assert {"x", "t"} <= found.tensors.keys()
    with pytest.raises(CalibrationError, match=r"lack 2 tensors that this recipe needs \('t', 'x', ...\)"):
        quantize(model, statistics=found, **WEIGHED)
    assert quantize(model, statistics=found, check=False, format="qdq").model is not None


def test_made_up_inputs_are_not_mixed_with_statistics_that_were_given(model, data):
    """A judge without data of its own opens made-up inputs; ranges for another draft must not come from them."""
    found = calibrate(model, calibration=data, format="qdq")
    weighed, log = Recipe.model_validate(WEIGHED), Log()
    prepared = prepare_model(make_request(model, Recipe(format="qdq"), log, replayed=True), log)
    given_statistics(prepared, found)
    assert prepared.request.calibration.source.synthetic
    with pytest.raises(CalibrationError, match="statistics lack"):
        complete(prepared, found, weighed, log)
    request = make_request(model, Recipe(format="qdq"), log, calibration=data, replayed=True)
    prepared = prepare_model(request, log)
    given_statistics(prepared, found)
    assert complete(prepared, found, weighed, log).tensors["x"].channels is not None
