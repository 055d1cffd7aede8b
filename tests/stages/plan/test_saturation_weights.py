"""Where weights are kept from saturating: on processors without VNNI, along the axes that each kernel runs along."""

import numpy as np
import pytest
from onnxq.errors import RecipeError
from onnxq.types.plan import Action
from tests.support.quantizing import quantize_text, text

CONV = text("y = Conv <pads = [1, 1, 1, 1]> (x, w)", "float[1,8,6,6] x", "float[1,12,6,6] y", "float[12,8,3,3] w")
DEPTHWISE = text("y = Conv <group = 8> (x, w)", "float[1,8,6,6] x", "float[1,8,4,4] y", "float[8,1,3,3] w")
GROUPED = text("y = Conv <group = 2> (x, w)", "float[1,8,6,6] x", "float[1,6,4,4] y", "float[6,4,3,3] w")
MATMUL = text("y = MatMul (x, w)", "float[5,63] x", "float[5,16] y", "float[63,16] w")
GEMM = text("y = Gemm <transB = 1> (x, w)", "float[5,64] x", "float[5,16] y", "float[16,64] w")
LSTM = text(
    "y = LSTM <hidden_size = 8> (x, w, r)", "float[5,1,16] x", "float[5,1,1,8] y", "float[1,32,16] w, float[1,32,8] r"
)


def limits(done):
    return {name: None if plan.pairs is None else plan.pairs.axes for name, plan in done.plan.tensors.items()}


@pytest.mark.parametrize(
    ("source", "form", "axes"),
    [
        (CONV, "qdq", {"w": (2, 3, 1)}),
        (CONV, "qoperator", {"w": (2, 3, 1)}),
        (GROUPED, "qdq", {"w": (2, 3, 1)}),
        (DEPTHWISE, "qdq", {"w": None}),
        (DEPTHWISE, "qoperator", {"w": None}),
        (MATMUL, "qdq", {"w": (0,)}),
        (MATMUL, "dynamic", {"w": (0,)}),
        (GEMM, "qdq", {"w": (1,)}),
        (GEMM, "dynamic", {"w": (1,)}),
        (LSTM, "dynamic", {"w": (2,), "r": (2,)}),
    ],
)
def test_weights_are_fitted_along_the_axes_the_kernel_adds_up(source, form, axes):
    options = {"format": form, "placement": "everywhere"}
    done = quantize_text(source, target="cpu-avx2", **options)
    assert {name: limits(done)[name] for name in axes} == axes
    assert any("saturates" in plan.reason for plan in done.plan.tensors.values()) is any(axes.values())
    exact = quantize_text(source, target="cpu-vnni", **options)
    assert not any(limits(exact).values())


@pytest.mark.parametrize("form", ["qdq", "dynamic"])
def test_unsigned_weights_are_left_alone(form):
    weights = {"dtype": "uint8", "symmetric": False}
    done = quantize_text(MATMUL, target="cpu-avx2", format=form, weights=weights, placement="everywhere")
    assert not any(limits(done).values())


@pytest.mark.parametrize("form", ["qdq", "qoperator", "dynamic"])
@pytest.mark.parametrize("source", [MATMUL, GEMM, CONV, LSTM], ids=["MatMul", "Gemm", "Conv", "LSTM"])
def test_uint8_stands_in_for_int8_with_zero_points_at_the_same_values(source, form):
    """128 more in codes and zero points is the same number, and sums of u8 x u8 products do not saturate."""
    weights = {"dtype": "int8", "symmetric": False, "granularity": "per-tensor"}
    options = {"format": form, "placement": "everywhere", "weights": weights, "calibrator": "minmax"}
    exact, signed = (quantize_text(source, target=target, **options) for target in ("cpu-avx2", "cpu-vnni"))
    (decision,) = exact.plan.decisions
    assert decision.action is Action.QUANTIZE
    found = {done.plan.target: stored_weights(done) for done in (exact, signed)}
    if source == CONV and form == "dynamic":  # activations are uint8: ConvInteger is exact with int8 weights too
        assert decision.reason.text.startswith("uint8 activations x int8 weights")
        assert not exact.plan.warnings
    else:
        assert "int8 weights with zero points would saturate" in decision.reason.text
        (warning,) = exact.plan.warnings
        assert "are uint8 instead of int8 with zero points" in warning
        assert f"'{decision.node}'" in warning
        assert {array.dtype for array, *_ in found["cpu-avx2"]} == {np.dtype(np.uint8)}
    for (codes, zero, scale), (others, other_zero, other_scale) in zip(*found.values(), strict=True):
        np.testing.assert_array_equal(np.int32(codes) - zero, np.int32(others) - other_zero)
        np.testing.assert_array_equal(scale, other_scale)
    assert exact.sqnr(optimize=True) > 25
    assert not signed.plan.warnings


def stored_weights(done):
    arrays = {name: value.const_value.numpy() for name, value in done.model.graph.initializers.items()}
    parts = [
        tuple(arrays[f"{name}/{part}"] for part in ("quantized", "zero_point", "scale"))
        for name in sorted(done.plan.tensors)
        if name in ("w", "r")
    ]
    return [(codes, np.int32(zero), scale) for codes, zero, scale in parts]


def test_where_uint8_has_no_kernel_either_the_refusal_says_what_would_do():
    weights = {"dtype": "int8", "symmetric": False, "granularity": "per-channel"}
    with pytest.raises(RecipeError, match=r"'LSTM_0': .* would saturate without VNNI; set `symmetric: true`"):
        quantize_text(LSTM, target="cpu-avx2", format="dynamic", weights=weights)


def test_int8_activations_are_made_uint8_by_the_runtime_and_fitted_too():
    done = quantize_text(MATMUL, target="cpu-avx2", activations={"dtype": "int8"})
    assert limits(done)["w"] == (0,)


def test_an_embedding_that_is_multiplied_with_is_stored_once():
    tied = text(
        "e = Gather (t, i) v = Transpose <perm = [1, 0]> (t) y = MatMul (e, v)",
        "int64[7] i",
        "float[7,512] y",
        "float[512,64] t",
    )
    feeds = {"i": np.arange(7)}
    sizes = []
    for target in ("cpu-vnni", "cpu-avx2"):
        done = quantize_text(tied, feeds, target=target, format="dynamic")
        assert {entry.action for entry in done.plan.decisions if entry.op != "Transpose"} == {Action.QUANTIZE}
        sizes.append(sum(entry.const_value.nbytes for entry in done.model.graph.initializers.values()))
    assert sizes[0] == sizes[1]
