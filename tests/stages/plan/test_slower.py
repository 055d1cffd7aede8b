"""Kernels that are no gain: a node stays in float and says what would do, unless kernels are wanted everywhere."""

import pytest
from tests.support.quantizing import quantize_text, text

DEPTHWISE = text("y = Conv <group = 8> (x, w)", "float[1,8,6,6] x", "float[1,8,4,4] y", "float[8,1,3,3] w")
ZERO_POINTS = {"dtype": "uint8", "symmetric": False}


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("target", ["cpu-vnni", "cpu-avx2"])
def test_depthwise_with_zero_points_of_its_own_stays_in_float(target, form):
    done = quantize_text(DEPTHWISE, target=target, format=form, weights=ZERO_POINTS)
    assert done.reasons() == {"Conv_0": "cheaper-in-float"}
    assert "symmetric: true" in done.decision("Conv_0").reason.text
    everywhere = quantize_text(DEPTHWISE, target=target, format=form, weights=ZERO_POINTS, placement="everywhere")
    assert everywhere.kernels()["QLinearConv"] == 1


@pytest.mark.parametrize(
    "weights", [{"dtype": "uint8", "symmetric": True}, {**ZERO_POINTS, "granularity": "per-tensor"}, {"dtype": "int8"}]
)
def test_with_one_zero_point_it_runs_on_codes(weights):
    assert quantize_text(DEPTHWISE, weights=weights).reasons() == {"Conv_0": "integer-kernel"}


def test_int8_activations_are_no_gain_without_vnni_where_they_stay_int8():
    source = text("y = MatMul (x, w)", "float[16,64] x", "float[16,32] y", "float[64,32] w")
    done = quantize_text(source, target="cpu-avx2", format="qoperator", activations={"dtype": "int8"})
    assert "take uint8" in done.decision("MatMul_0").reason.text
    done = quantize_text(source, target="cpu-vnni", format="qoperator", activations={"dtype": "int8"})
    assert done.reasons() == {"MatMul_0": "integer-kernel"}
