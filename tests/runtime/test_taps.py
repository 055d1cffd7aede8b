import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass
from onnxq.errors import CalibrationError, ModelError
from onnxq.runtime.taps import Taps, tensor_bytes, tensor_shapes

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
taps (float[N,4] x, int64[M] shape) => (float[N,4] y)
<float[4] w = {1, 2, 3, 4}>
{ h = Mul (x, w)  y = Relu (h)  r = Reshape (y, shape)  c = Cast <to = 16> (r)  d = Cast <to = 6> (h) }
"""
FEEDS = {"x": np.array([[1, -1, 1, -1]], np.float32), "shape": np.array([2, 2])}


@pytest.fixture
def model():
    model = ir.from_onnx_text(TEXT)
    ShapeInferencePass()(model)
    return model


def test_tapped_tensors_come_out_and_the_model_stays_as_it_is(model):
    before = ir.to_proto(model).SerializeToString()
    found = Taps(model, ["h", "x", "y", "h"]).run(FEEDS)
    assert {name: array.tolist() for name, array in found.items()} == {
        "x": [[1, -1, 1, -1]],
        "h": [[1, -2, 3, -4]],
        "y": [[1, 0, 3, 0]],
    }
    assert ir.to_proto(model).SerializeToString() == before


def test_a_tapped_input_is_a_copy(model):
    feeds = {name: array.copy() for name, array in FEEDS.items()}
    found = Taps(model, ["x"]).run(feeds)
    feeds["x"][:] = 9
    assert found["x"].tolist() == [[1, -1, 1, -1]]


def test_integers_can_be_tapped(model):
    assert Taps(model, ["d"]).run(FEEDS)["d"].tolist() == [[1, -2, 3, -4]]


def test_bfloat16_is_widened(model):
    found = Taps(model, ["c"]).run(FEEDS)["c"]
    assert (found.dtype, found.tolist()) == (np.float32, [[1, 0], [3, 0]])


def test_an_unknown_tensor_is_named_with_its_nearest():
    model = ir.from_onnx_text(TEXT.replace("h = Mul", "hidden = Mul").replace("(h)", "(hidden)"))
    with pytest.raises(CalibrationError, match=r"no tensor 'hiden'; did you mean 'hidden'"):
        Taps(model, ["hiden"])
    with pytest.raises(CalibrationError, match=r"no tensor 'w'"):
        Taps(model, ["w"])


def test_a_run_that_fails_says_so(model):
    with pytest.raises(ModelError, match=r"cannot run the model"):
        Taps(model, ["r"]).run(FEEDS | {"shape": np.array([3, 3])})


def test_sizes_come_from_inferred_shapes_or_from_one_run(model, monkeypatch):
    # Only a run tells the shape of r: it is reshaped by data.
    (shapes,) = tensor_shapes(model, ["h", "r", "c", "d"], [FEEDS])
    assert shapes == {"h": (1, 4), "r": (2, 2), "c": (2, 2), "d": (1, 4)}
    assert tensor_bytes(model, shapes) == {"h": 16, "r": 16, "c": 8, "d": 16}
    monkeypatch.setattr("onnxq.runtime.taps.open_session", None)
    assert tensor_shapes(model, ["x", "y"], [FEEDS, FEEDS]) == [{"x": (1, 4), "y": (1, 4)}] * 2
    assert [value.name for value in model.graph.outputs] == ["y"]
