"""Cross-layer equalization and bias absorption: what they level, what stays, what they refuse."""

import numpy as np
import onnx_ir as ir
import onnxq
import pytest
from onnxq.errors import RecipeError
from onnxq.graph.text import model_from_text
from onnxq.pipeline.log import Log
from onnxq.pipeline.preparing import equalized, prepare_model
from onnxq.pipeline.request import make_request
from onnxq.runtime.session import run_model
from onnxq.types.recipe import Recipe
from tests.support.quantizing import text

MOBILE = text(
    "a = Conv (x, w, wb) r = Relu (a) d = Conv <group = 6, pads = [1, 1, 1, 1]> (r, v, vb) s = Relu (d)"
    " p = MaxPool <kernel_shape = [2, 2]> (s) c = Conv (p, u, ub) m = GlobalAveragePool (c) f = Flatten (m)"
    " y = Gemm <transB = 1> (f, k, kb)",
    "float[2,3,12,12] x",
    "float[2,4] y",
    "float[6,3,3,3] w, float[6] wb, float[6,1,3,3] v, float[6] vb, float[5,6,1,1] u, float[5] ub, "
    "float[4,5] k, float[4] kb",
)
DENSE = text(
    "a = MatMul (x, w) b = Add (a, o) r = Relu (b) c = MatMul (r, v) y = Add (p, c)",
    "float[16,8] x",
    "float[16,4] y",
    "float[8,6] w, float[6] o, float[6,4] v, float[4] p",
)


def _filled(source, *, spread, shift=0.0):
    model = model_from_text(source)
    rng = np.random.default_rng(0)
    for value in model.graph.initializers.values():
        array = rng.standard_normal(value.shape.numpy())
        if array.ndim > 1:
            array *= np.exp(rng.uniform(-spread, spread, (array.shape[0],) + (1,) * (array.ndim - 1)))
        if value.name in ("o", "vb"):
            array[::2] += shift
        value.const_value = ir.tensor(array.astype(np.float32), name=value.name)
    return model


def _feeds(model, seed=1):
    rng = np.random.default_rng(seed)
    return {v.name: rng.standard_normal(v.shape.numpy()).astype(np.float32) for v in model.graph.inputs}


def _equalized(model, data, *names):
    log = Log()
    prepared = prepare_model(make_request(model, Recipe.parse({"equalize": list(names)}), log, calibration=data), log)
    before, result = prepared.model, equalized(prepared, log)
    return before, result.model, {entry.nodes[0]: entry for entry in result.equalizations}


def _same(before, after, feeds):
    for optimize in (False, True):
        got = run_model(after, feeds, optimize=optimize)
        for name, expected in run_model(before, feeds, optimize=False).items():
            np.testing.assert_allclose(got[name], expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max())


def test_ranges_are_level_on_both_sides_and_the_outputs_stay():
    model = _filled(MOBILE, spread=2)
    before, after, entries = _equalized(model, [_feeds(model)], "cross-layer")
    _same(before, after, _feeds(model, 7))
    assert [entry.taken for entry in entries.values()] == [False, True, True, True]
    assert next(iter(entries.values())).text == "'x' is an input of the model"
    held = {name: np.abs(value.const_value.numpy()) for name, value in after.graph.initializers.items()}
    depthwise = held["v"].max(axis=(1, 2, 3))
    np.testing.assert_allclose(held["w"].max(axis=(1, 2, 3)), depthwise, rtol=0.01)
    np.testing.assert_allclose(depthwise, held["u"].max(axis=(0, 2, 3)), rtol=0.01)
    np.testing.assert_allclose(held["u"].max(axis=(1, 2, 3)), held["k"].max(axis=0), rtol=0.01)


def test_weights_with_one_scale_a_tensor_gain_those_with_one_a_channel_need_not():
    model = _filled(MOBILE, spread=2)
    data = [_feeds(model, seed) for seed in range(8)]
    options = {"calibration": data, "guard": False, "placement": "everywhere", "weights": "per-tensor"}
    plain, level = (
        onnxq.quantize(model, **options, equalize=each).verification.outputs[0].sqnr_plain
        for each in ([], ["cross-layer"])
    )
    assert level > plain + 3


def test_what_a_relu_never_cuts_moves_behind_it():
    model = _filled(DENSE, spread=0.2, shift=30)
    data = [_feeds(model, seed) for seed in range(4)]
    before, after, entries = _equalized(model, data, "absorb-bias")
    (entry,) = entries.values()
    assert entry.taken
    assert entry.text.startswith("3 of 6 channels lowered by up to ")
    for feeds in data:
        _same(before, after, feeds)
    tapped = after.clone()
    tapped.graph.outputs.append(next(v for n in tapped.graph for v in n.outputs if n.op_type == "Relu"))
    seen = np.concatenate([run_model(tapped, feeds, optimize=False)[tapped.graph.outputs[-1].name] for feeds in data])
    np.testing.assert_allclose(seen.min(axis=0)[::2], 0, atol=1e-4)  # the whole range of codes is used again


def test_a_layer_that_pads_with_zeros_absorbs_nothing():
    source = text(
        "a = Conv (x, w, wb) r = Relu (a) y = Conv <pads = [1, 1, 1, 1]> (r, v, vb)",
        "float[1,3,8,8] x",
        "float[1,2,6,6] y",
        "float[4,3,3,3] w, float[4] wb, float[2,4,3,3] v, float[2] vb",
    )
    model = _filled(source, spread=0.2)
    before, after, entries = _equalized(model, [_feeds(model)], "absorb-bias")
    (entry,) = entries.values()
    assert "pads its input with zeros" in entry.text
    _same(before, after, _feeds(model))


@pytest.mark.parametrize(
    "outputs", ["float[16,4] y, float[16,6] b", "float[16,4] y, float[16,6] r"], ids=["before", "behind"]
)
def test_a_relu_that_others_see_absorbs_nothing(outputs):
    model = _filled(DENSE.replace("float[16,4] y", outputs), spread=0.2, shift=30)
    before, after, entries = _equalized(model, [_feeds(model)], "absorb-bias")
    assert [entry.taken for entry in entries.values()] == [False]
    _same(before, after, _feeds(model))


def test_nothing_to_take_off_says_so():
    model = _filled(DENSE, spread=0.2, shift=-30)
    _, _, entries = _equalized(model, [_feeds(model)], "absorb-bias")
    (entry,) = entries.values()
    assert not entry.taken


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["absorb-bias", "cross-layer"], "'cross-layer' must come before 'absorb-bias'"),
        (["smoothquant", "cross-layer"], "'cross-layer' must come before 'smoothquant'"),
        (["smoothquant", "awq"], "'smoothquant' does what 'awq' does; take one of them"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(names, message):
    with pytest.raises(RecipeError) as caught:
        onnxq.quantize(_filled(DENSE, spread=0), equalize=names)
    assert message in str(caught.value)
