"""The residual stream turned: outputs stay, outliers go, what cannot be turned says why."""

import numpy as np
import onnx_ir as ir
import onnxq
import pytest
from models.decoder import Shape, build_decoder
from onnxq.equalizers.hadamard import Hadamard
from onnxq.graph.text import model_from_text
from onnxq.pipeline.log import Log
from onnxq.pipeline.preparing import equalized, prepare_model
from onnxq.pipeline.request import make_request
from onnxq.runtime.session import run_model
from onnxq.types.plan import Action
from onnxq.types.recipe import Recipe
from tests.support.quantizing import text

SHAPE = Shape(layers=2, heads=4, key_heads=2, width=48, inner=96, vocabulary=60, rotary_base=10000.0, epsilon=1e-5)


@pytest.fixture(scope="module")
def decoder():
    rng = np.random.default_rng(0)
    weights = {"embed_tokens.weight": rng.standard_normal((60, 48)), "norm.weight": rng.uniform(0.5, 2, 48)}
    sizes = {
        "q": (48, 48),
        "k": (24, 48),
        "v": (24, 48),
        "o": (48, 48),
        "gate": (96, 48),
        "up": (96, 48),
        "down": (48, 96),
    }
    for layer in range(2):
        for part in ("input_layernorm", "post_attention_layernorm"):
            weights[f"layers.{layer}.{part}.weight"] = rng.uniform(0.5, 2, 48)
        for part, size in sizes.items():
            where = "self_attn" if part in "qkvo" else "mlp"
            weights[f"layers.{layer}.{where}.{part}_proj.weight"] = rng.standard_normal(size) / 8
        weights[f"layers.{layer}.mlp.down_proj.weight"][5] *= 40  # one feature of the stream stands out
    return build_decoder({name: each.astype(np.float32) for name, each in weights.items()}, SHAPE, cache=False)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    return [{"input_ids": rng.integers(0, 60, (2, 12)), "attention_mask": np.ones((2, 12), np.int64)} for _ in range(4)]


TIED = "lift-constants,fix-names,infer-shapes"
"""Preparation that leaves the embedding and its turned copy one constant, as it does where a copy would be large."""


def _turned(model, data, passes=None):
    log, recipe = Log(), Recipe.parse({"equalize": "hadamard"} | ({"passes": passes} if passes else {}))
    prepared = prepare_model(make_request(model, recipe, log, calibration=data), log)
    before, result = prepared.model, equalized(prepared, log)
    return before, result.model, result.equalizations


@pytest.mark.parametrize("width", [1, 9, 48, 64, 576])
def test_the_matrix_is_orthogonal_and_spreads_each_feature(width):
    matrix = Hadamard()(width)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(width), atol=1e-12)
    assert np.abs(matrix).max() <= np.sqrt(2 / width) + 1e-12 or width == 1


@pytest.mark.parametrize(("passes", "taken"), [(None, (5, 5, 0)), (TIED, (4, 4, 2))], ids=["alone", "tied"])
def test_a_decoder_computes_the_same_with_its_stream_turned(decoder, data, passes, taken):
    before, after, entries = _turned(decoder, data, passes)
    (entry,) = entries
    assert entry.taken
    norms, writers, products = taken
    assert f"{norms} norms and {writers} constants that write to it were rotated; {products} products" in entry.text
    for feeds in data[:2]:
        for optimize in (False, True):
            expected = run_model(before, feeds, optimize=False)["logits"]
            got = run_model(after, feeds, optimize=optimize)["logits"]
            np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_what_stood_out_in_the_stream_is_spread(decoder, data):
    before, after, _ = _turned(decoder, data)
    peaks = []
    for model in (before, after):
        tapped = model.clone()
        value = next(v for n in tapped.graph if n.name == "/layers.1/Add" for v in n.outputs)
        tapped.graph.outputs.append(value)
        stream = run_model(tapped, data[0], optimize=False)[value.name]
        peaks.append(np.abs(stream).max() / np.sqrt(np.mean(np.square(stream))))
    assert peaks[1] < peaks[0] / 1.5


def test_the_products_put_in_stay_in_float(decoder, data):
    report = onnxq.quantize(
        decoder, calibration=data, equalize="hadamard", format="weight-only", guard=False, passes=TIED
    )
    extra = [d for d in report.plan.decisions if d.reason.code == "equalizes"]
    assert [d.op for d in extra] == ["MatMul", "MatMul"]
    assert all(d.action is Action.KEEP for d in extra)


def test_it_restores_8_bits_where_a_feature_of_the_stream_stands_out(decoder, data):
    options = {"calibration": data, "guard": False, "placement": "everywhere", "calibrator": "minmax"}
    plain, turned = (
        onnxq.quantize(decoder, **options, equalize=each).verification.outputs[0].sqnr_plain
        for each in ([], ["hadamard"])
    )
    assert turned > plain + 3


def test_layer_normalization_says_why_not():
    model = model_from_text(
        text(
            "n = LayerNormalization (x, g) a = MatMul (n, w) y = Add (x, a)",
            "float[4,8] x",
            "float[4,8] y",
            "float[8] g, float[8,8] w",
        )
    )
    for value in model.graph.initializers.values():
        value.const_value = ir.tensor(np.ones(value.shape.numpy(), np.float32), name=value.name)
    _, _, (entry,) = _turned(model, [{"x": np.ones((4, 8), np.float32)}])
    assert not entry.taken
    assert "LayerNormalization takes the mean off" in entry.text


def test_a_stream_that_is_an_output_stays():
    body = (
        "s = Pow (x, two) m = ReduceMean <axes = [-1]> (s) r = Sqrt (m) u = Div (x, r) n = Mul (u, g)"
        " a = MatMul (n, w) y = Add (x, a)"
    )
    model = model_from_text(text(body, "float[4,8] x", "float[4,8] y", "float[8] g, float[8,8] w, float two = {2}"))
    for value in model.graph.initializers.values():
        if value.name != "two":
            value.const_value = ir.tensor(np.ones(value.shape.numpy(), np.float32), name=value.name)
    _, _, (entry,) = _turned(model, [{"x": np.ones((4, 8), np.float32)}])
    assert entry.text == "'y' is an output of the model"
