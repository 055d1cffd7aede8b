"""Fewer activation codes where that leaves room for weights that sums of pairs would otherwise hold down."""

import numpy as np
import onnx_ir as ir
import pytest
from onnxq.graph.text import model_from_text
from onnxq.numerics.pair_safe import breaks
from onnxq.stages.plan import saturation as levels
from tests.support.quantizing import quantize_model, text

RNG = np.random.default_rng(0)
POSITIVE = RNG.choice([0.9, 1.0], (256, 32)) * RNG.uniform(0.3, 1, (256, 32))
EVEN = RNG.random((64, 256)).astype(np.float32)


BOUNDED = "s = Clip (x, low, high) y = MatMul (s, w)"
WIDER = 1.2 * EVEN - 0.1  # reaches both bounds
WEIGHTS = "float[256,32] w, float low = {0.0}, float high = {1.0}"


def quantized(weight, feeds, *, body=BOUNDED, **options):
    model = model_from_text(text(body, "float[64,256] x", "float[64,32] y", WEIGHTS))
    model.graph.initializers["w"].const_value = ir.tensor(weight.astype(np.float32), name="w")
    settings = {"target": "cpu-avx2", "calibrator": "minmax", "placement": "everywhere", **options}
    return quantize_model(model, {"x": feeds}, **settings)


def stored_codes(model):
    return next(
        entry.const_value.numpy() for entry in model.graph.initializers.values() if entry.dtype == ir.DataType.INT8
    )


def test_heavy_weights_of_one_sign_get_room(monkeypatch):
    done = quantized(POSITIVE, WIDER)
    assert 1 / float(done.plan.tensors["s"].params.scale) < 200
    assert "codes, which leave room" in done.plan.tensors["s"].reason
    assert done.plan.tensors["w"].pairs.limit > 128
    monkeypatch.setattr(levels, "_FEWER", ())
    plain = quantized(POSITIVE, WIDER)
    assert plain.plan.tensors["w"].pairs.limit == 128
    assert done.sqnr(optimize=False) > plain.sqnr(optimize=False) + 1


def test_no_code_beyond_the_room_can_occur():
    """Whatever the input: the largest code of a bounded activation times the heaviest pair stays within 16 bits."""
    done = quantized(POSITIVE, WIDER)
    params = done.plan.tensors["s"].params
    largest = int(np.rint(1 / params.scale)) + int(params.zero_point)
    weights = stored_codes(done.model).astype(np.int64).reshape(128, 2, 32)
    assert np.abs(weights.sum(axis=1)).max() * largest <= 32767


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("weight", [POSITIVE, RNG.standard_normal((256, 32))], ids=["positive", "mixed"])
@pytest.mark.parametrize(
    "body", ["y = MatMul (x, w)", "y = Gemm (x, w)", "r = Relu (x) y = MatMul (r, w)"], ids=["matmul", "gemm", "relu"]
)
def test_what_nothing_bounds_keeps_all_its_codes(body, weight, form):
    """Inputs outside of the calibrated range reach code 255, where heavier weights would saturate."""
    done = quantized(weight, EVEN, body=body, format=form)
    assert not any("leave room" in tensor.reason for tensor in done.plan.tensors.values())
    assert done.plan.tensors["w"].pairs.limit == 128
    assert breaks(stored_codes(done.model), (0,), 128) == 0


@pytest.mark.parametrize("op", ["Sigmoid", "HardSigmoid", "Tanh", "Erf"])
def test_operators_bound_what_they_compute(op):
    """Where calibration saw all of it, the trade is made or not by its worth; where it did not, never."""
    done = quantized(POSITIVE, 0.1 * EVEN, body=f"s = {op} (x) y = MatMul (s, w)")
    assert "leave room" not in done.plan.tensors["s"].reason
    seen = quantized(POSITIVE, 50 * EVEN, body=f"s = {op} (x) y = MatMul (s, w)")
    assert "leave room" in seen.plan.tensors["s"].reason


def test_values_between_what_was_seen_and_the_bound_would_have_larger_codes():
    done = quantized(POSITIVE, 0.5 * EVEN)
    assert "leave room" not in done.plan.tensors["s"].reason


@pytest.mark.parametrize(
    ("weight", "options"),
    [
        (POSITIVE, {"target": "cpu-vnni"}),
        (POSITIVE, {"activations": {"symmetric": True}, "body": "y = MatMul (x, w)"}),
        (POSITIVE, {"weights": {"dtype": "uint8", "symmetric": False}}),
        (np.where(np.arange(256)[:, None] % 2, POSITIVE, -POSITIVE), {}),
    ],
)
def test_otherwise_activations_use_all_their_codes(weight, options):
    done = quantized(weight, WIDER, **options)
    assert not any("leave room" in tensor.reason for tensor in done.plan.tensors.values())


def test_a_clamp_with_an_upper_bound_keeps_its_codes():
    """Fewer codes would reach beyond the bound, and the clamp could not be absorbed."""
    body = "m = MatMul (x, w) c = Clip (m, low, high) y = MatMul (c, v)"
    weights = "float[256,32] w, float[32,32] v, float low = {0.0}, float high = {6.0}"
    model = model_from_text(text(body, "float[64,256] x", "float[64,32] y", weights))
    model.graph.initializers["v"].const_value = ir.tensor(np.ones((32, 32), np.float32), name="v")
    done = quantize_model(model, {"x": EVEN}, target="cpu-avx2", placement="everywhere")
    assert done.plan.tensors["c"].pairs is None
    assert float(done.plan.tensors["c"].params.scale) * 255 <= 6.0
