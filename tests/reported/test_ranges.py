"""Reported about ranges: shapes that vary, masks, tiny and dead channels, parts of very different size."""

import numpy as np
import onnx
import pytest
from tests.support.end_to_end import FORMATS, normal, quantize, with_weights

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
CALIBRATORS = ["minmax", "moving-average", "percentile", "entropy", "mse"]


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_calibration_on_shapes_that_vary(calibrator):
    model = with_weights(
        f"""{HEAD} g (float[N,L,16] x) => (float[N,L,16] y) {{
            a = MatMul (x, w)  r = Relu (a)  y = MatMul (r, v) }}""",
        w=normal(16, 32, seed=1),
        v=normal(32, 16, seed=2),
    )
    feeds = [{"x": normal(n, length, 16, seed=length)} for n, length in ((1, 3), (2, 50), (3, 7), (1, 1))]
    done = quantize(model, feeds, "qdq", calibrator=calibrator)
    assert {"MatMul_0", "MatMul_2"} <= set(done.quantized())
    assert done.at_least(15)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("mask", [-np.inf, float(np.finfo(np.float32).min), -1e9, -1e4])
def test_attention_with_a_mask(form, mask):
    model = with_weights(
        f"""{HEAD} g (float[2,6,16] x, float[2,1,6] mask) => (float[2,6,16] y) {{
            q = MatMul (x, wq)  k = MatMul (x, wk)  v = MatMul (x, wv)
            t = Transpose <perm = [0, 2, 1]> (k)  s = MatMul (q, t)  m = Add (s, mask)  p = Softmax (m)
            y = MatMul (p, v) }}""",
        wq=normal(16, 16, seed=1, scale=0.3),
        wk=normal(16, 16, seed=2, scale=0.3),
        wv=normal(16, 16, seed=3, scale=0.3),
    )
    hidden = np.zeros((2, 1, 6), np.float32)
    hidden[:, :, 4:] = mask
    assert quantize(model, {"x": normal(2, 6, 16), "mask": hidden}, form).at_least(25)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("weights", ["int8,symmetric", "uint8,asymmetric"])
def test_tiny_weights_beside_a_large_bias(form, weights):
    tiny = normal(8, 4, 3, 3, seed=1)
    tiny[::2] *= 1e-9
    model = with_weights(
        f"{HEAD} g (float[1,4,8,8] x) => (float[1,8,6,6] y) {{ y = Conv (x, w, b) }}",
        w=tiny,
        b=normal(8, seed=2, scale=10),
    )
    assert quantize(model, {"x": normal(1, 4, 8, 8)}, form, weights=f"{weights},per-tensor").at_least(30)
    if weights.startswith("int8"):
        assert quantize(model, {"x": normal(1, 4, 8, 8)}, form, weights=f"{weights},per-channel").at_least(30)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_products_fit_beside_a_bias_that_fills_its_integers(form):
    """Of a negative bias at the lower end of int32 the sum with negative products would come out positive."""
    model = with_weights(
        f"{HEAD} g (float[4,64] x) => (float[4,16] z) {{ y = Gemm (x, w, b)  z = Flatten (y) }}",
        w=normal(64, 16, seed=1),
        b=-1 - np.abs(normal(16, seed=2, scale=0.01)),
    )
    done = quantize(model, {"x": normal(4, 64, scale=1e-7)}, form, placement="everywhere")
    assert {"Gemm_0"} <= set(done.quantized())
    assert done.at_least(40)


@pytest.mark.parametrize("form", FORMATS)
def test_dead_channels_and_dead_weights(form):
    dead = normal(8, 4, 3, 3, seed=1)
    dead[3] = 0
    model = with_weights(
        f"""{HEAD} g (float[1,4,8,8] x) => (float[1,8,6,6] y, float[1,8,6,6] z) {{
            y = Conv (x, w, b)  z = Conv (x, w0, b) }}""",
        w=dead,
        w0=np.zeros((8, 4, 3, 3), np.float32),
        b=normal(8, seed=2),
    )
    assert quantize(model, {"x": normal(1, 4, 8, 8)}, form).at_least(30)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("granularity", ["per-channel", "per-tensor"])
@pytest.mark.parametrize("weights", ["int8,symmetric", "uint8,asymmetric"])
@pytest.mark.parametrize("operator", ["Conv", "Gemm"])
def test_a_small_bias_on_weights_that_are_all_zero(form, granularity, weights, operator):
    """The scale 1 would leave a bias of 0.01 beside inputs in steps of 0.03 no code but 0."""
    extents = "float[1,8,1,1] x) => (float[1,8,1,1] y)" if operator == "Conv" else "float[1,8] x) => (float[1,8] y)"
    model = with_weights(
        f"{HEAD} g ({extents} {{ y = {operator} (x, w, b) }}",
        w=np.zeros((8, 8, 1, 1) if operator == "Conv" else (8, 8), np.float32),
        b=normal(8, seed=2, scale=0.01),
    )
    feeds = {"x": normal(*((1, 8, 1, 1) if operator == "Conv" else (1, 8)), scale=2)}
    done = quantize(model, feeds, form, weights=f"{weights},{granularity}")
    assert done.quantized() == [f"{operator}_0"]
    assert done.at_least(40)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("method", ["rtn", "mse", "gptq:sequential=true"])
def test_a_small_bias_on_a_channel_of_zeros_beside_large_weights(form, method):
    """The scale of its neighbours, 1, would do the same."""
    large = normal(8, 8, seed=1, scale=50)
    large[:, 3] = 0
    model = with_weights(
        f"""{HEAD} g (float[4,8] x) => (float[4,1] y) {{
            a = Gemm (x, w, b)  s = Constant <value_ints = [3]> ()  e = Constant <value_ints = [4]> ()
            o = Constant <value_ints = [1]> ()  y = Slice (a, s, e, o) }}""",
        w=large,
        b=normal(8, seed=2, scale=0.01),
    )
    done = quantize(model, {"x": normal(4, 8, scale=2)}, form, weights=f"method={method}", placement="fastest")
    assert done.quantized() == ["Gemm_0"]
    assert done.at_least(40)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_products_of_scales_stay_in_float32(form):
    """Where scale_x * scale_w is 0, a bias of 0 has the code 0 / 0."""
    model = with_weights(
        f"{HEAD} g (float[1,8] x) => (float[1,2] y) {{ y = Gemm (x, w, b) }}",
        w=np.float32(normal(8, 2, scale=1e-30)),
        b=np.float32([0, 1]),
    )
    done = quantize(model, {"x": normal(1, 8, scale=1e-18)}, form, placement="everywhere")
    stored = {entry.name: onnx.numpy_helper.to_array(entry) for entry in done.model.graph.initializer}
    assert stored["b/quantized"][0] == 0
    assert done.at_least(40)


@pytest.mark.parametrize("form", FORMATS)
def test_boxes_and_scores_in_one_output(form):
    model = with_weights(
        f"""{HEAD} g (float[50,32] x) => (float[50,4] boxes, float[50,3] scores, float[50,7] both) {{
            b = MatMul (x, w)  boxes = Abs (b)  s = MatMul (x, v)  scores = Sigmoid (s)
            both = Concat <axis = 1> (boxes, scores) }}""",
        w=normal(32, 4, seed=1, scale=60),
        v=normal(32, 3, seed=2, scale=0.3),
    )
    done = quantize(model, {"x": normal(50, 32)}, form)
    assert done.at_least(25)
    if form in ("qdq", "qoperator"):
        assert done.reasons()["Concat_4"] == "wide-range"
