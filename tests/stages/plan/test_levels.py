"""Fewer activation codes where that leaves room for weights that sums of pairs would otherwise hold down."""

import numpy as np
import onnx_ir as ir
import pytest
from onnxq.graph.text import model_from_text
from onnxq.stages.plan import levels
from tests.quantizing import quantize_model, text

RNG = np.random.default_rng(0)
POSITIVE = RNG.choice([0.9, 1.0], (256, 32)) * RNG.uniform(0.3, 1, (256, 32))
EVEN = RNG.random((64, 256)).astype(np.float32)


def quantized(weight, feeds, monkeypatch=None, *, body="y = MatMul (x, w)", **options):
    if monkeypatch is not None:
        monkeypatch.setattr(levels, "_FEWER", ())
    model = model_from_text(text(body, "float[64,256] x", "float[64,32] y", "float[256,32] w"))
    model.graph.initializers["w"].const_value = ir.tensor(weight.astype(np.float32), name="w")
    settings = {"target": "cpu-avx2", "calibrator": "minmax", **options}
    return quantize_model(model, {"x": feeds}, **settings)


def test_heavy_weights_of_one_sign_get_room(monkeypatch):
    done = quantized(POSITIVE, EVEN)
    codes = np.ptp(EVEN) / float(done.plan.tensors["x"].params.scale)
    assert codes < 200
    assert "codes, which leave room" in done.plan.tensors["x"].reason
    assert done.plan.tensors["w"].pairs.limit > 128
    plain = quantized(POSITIVE, EVEN, monkeypatch)
    assert plain.plan.tensors["w"].pairs.limit == 128
    assert done.sqnr(optimize=False) > plain.sqnr(optimize=False) + 1


@pytest.mark.parametrize(
    ("weight", "options"),
    [
        (POSITIVE, {"target": "cpu-vnni"}),
        (POSITIVE, {"activations": {"symmetric": True}}),
        (POSITIVE, {"weights": {"dtype": "uint8", "symmetric": False}}),
        (np.where(np.arange(256)[:, None] % 2, POSITIVE, -POSITIVE), {}),
    ],
)
def test_otherwise_activations_use_all_their_codes(weight, options):
    done = quantized(weight, EVEN, **options)
    assert "leave room" not in done.plan.tensors["x"].reason


def test_a_clamp_with_an_upper_bound_keeps_its_codes():
    """Fewer codes would reach beyond the bound, and the clamp could not be absorbed."""
    body = "m = MatMul (x, w) c = Clip (m, low, high) y = MatMul (c, v)"
    weights = "float[256,32] w, float[32,32] v, float low = {0.0}, float high = {6.0}"
    model = model_from_text(text(body, "float[64,256] x", "float[64,32] y", weights))
    model.graph.initializers["v"].const_value = ir.tensor(np.ones((32, 32), np.float32), name="v")
    done = quantize_model(model, {"x": EVEN}, target="cpu-avx2", placement="everywhere")
    assert done.plan.tensors["c"].pairs is None
    assert float(done.plan.tensors["c"].params.scale) * 255 <= 6.0
