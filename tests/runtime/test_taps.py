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
    assert {name: array.tolist() for name, (array,) in found.items()} == {
        "x": [[1, -1, 1, -1]],
        "h": [[1, -2, 3, -4]],
        "y": [[1, 0, 3, 0]],
    }
    assert ir.to_proto(model).SerializeToString() == before


def test_a_tapped_input_is_a_copy(model):
    feeds = {name: array.copy() for name, array in FEEDS.items()}
    found = Taps(model, ["x"]).run(feeds)
    feeds["x"][:] = 9
    assert found["x"][0].tolist() == [[1, -1, 1, -1]]


def test_integers_can_be_tapped(model):
    assert Taps(model, ["d"]).run(FEEDS)["d"][0].tolist() == [[1, -2, 3, -4]]


def test_bfloat16_is_widened(model):
    (found,) = Taps(model, ["c"]).run(FEEDS)["c"]
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
    assert shapes == {"h": [(1, 4)], "r": [(2, 2)], "c": [(2, 2)], "d": [(1, 4)]}
    assert tensor_bytes(model, shapes) == {"h": 16, "r": 16, "c": 8, "d": 16}
    monkeypatch.setattr("onnxq.runtime.taps.open_session", None)
    assert tensor_shapes(model, ["x", "y"], [FEEDS, FEEDS]) == [{"x": [(1, 4)], "y": [(1, 4)]}] * 2
    assert [value.name for value in model.graph.outputs] == ["y"]


IN_SCOPES = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x, int64 times, bool deep, float[3,2] rows) => (float[N] y, float[2] z)
{
  on = Constant <value = bool {1}> ()
  y = Loop (times, on, x) <body = b (int64 i, bool go, float[K] v) => (bool more, float[M] w) {
      more = Identity (go)
      v2 = Add (v, v)
      w = If (deep) <then_branch = t () => (float[A] w1) { inner = Neg (v2)  w1 = Concat <axis = 0> (v, inner) },
                     else_branch = e () => (float[B] w2) { other = Abs (v2)  w2 = Identity (other) }>
  }>
  z, all = Scan <num_scan_inputs = 1, body = s (float[2] sum, float[2] row) => (float[2] total, float[2] out) {
      total = Add (sum, row)  out = Mul (total, row)
  }> (x, rows)
}
"""
SCOPE_FEEDS = {
    "x": np.array([1, -2], np.float32),
    "times": np.array(2),
    "deep": np.array(True),
    "rows": np.array([[1, 2], [3, 4], [5, 6]], np.float32),
}


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("deep", [False, True])
def test_what_bodies_compute_comes_out_each_time_with_its_shape(optimize, deep):
    model = ir.from_onnx_text(IN_SCOPES)
    before = ir.to_proto(model).SerializeToString()
    taps = Taps(model, ["v2", "inner", "other", "v", "total", "out", "x", "y", "row"], optimize=optimize)
    found = taps.run(SCOPE_FEEDS | {"deep": np.array(deep)})
    listed = {name: [array.tolist() for array in each] for name, each in found.items()}
    assert listed["x"] == [[1, -2]]
    if deep:
        assert listed["v"] == [[1, -2], [1, -2, -2, 4]]
        assert listed["v2"] == [[2, -4], [2, -4, -4, 8]]
        assert listed["inner"] == [[-2, 4], [-2, 4, 4, -8]]
        assert listed["other"] == []
        assert listed["y"] == [[1, -2, -2, 4, -2, 4, 4, -8]]
    else:
        assert listed["v2"] == [[2, -4], [4, 8]]
        assert listed["other"] == [[2, 4], [4, 8]]
        assert listed["inner"] == []
        assert listed["y"] == [[4, 8]]
    assert listed["row"] == [[[1, 2], [3, 4], [5, 6]]]
    assert listed["total"] == [[[2, 0], [5, 4], [10, 10]]]
    assert listed["out"] == [[[2, 0], [15, 16], [50, 60]]]
    assert ir.to_proto(model).SerializeToString() == before


def test_shapes_in_bodies_are_told_for_every_time_and_count_as_bytes():
    model = ir.from_onnx_text(IN_SCOPES)
    (shapes,) = tensor_shapes(model, ["x", "v2", "inner", "other"], [SCOPE_FEEDS])
    assert shapes == {"x": [(2,)], "v2": [(2,), (4,)], "inner": [(2,), (4,)], "other": []}
    ShapeInferencePass()(model)
    assert tensor_bytes(model, shapes) == {"x": 8, "v2": 24, "inner": 24, "other": 0}


def test_what_lies_too_deep_is_refused():
    text = """<ir_version: 8, opset_import: ["" : 17]> g (bool c, float[3,2] rows) => (float[3,2] y) {
      y = Scan <num_scan_inputs = 1, body = s (float[2] row) => (float[2] o) {
        o = If (c) <then_branch = t () => (float[2] p) { p = Neg (row) },
                    else_branch = e () => (float[2] q) { q = Abs (row) }>
      }> (rows) }"""
    with pytest.raises(CalibrationError, match=r"'p': values of If inside Scan cannot be observed; keep"):
        Taps(ir.from_onnx_text(text), ["p"])


def test_each_step_of_a_scan_counts():
    model = ir.from_onnx_text(IN_SCOPES)
    (shapes,) = tensor_shapes(model, ["total"], [SCOPE_FEEDS])
    assert shapes == {"total": [(2,), (2,), (2,)]}
