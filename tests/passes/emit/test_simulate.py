"""Simulated models compute what quantized ones compute, without their kernels."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxq
import pytest
from onnxq.graph.text import model_from_text
from onnxq.runtime.session import run_model
from onnxq.stages.rewrite import simulate
from tests.support.quantizing import quantize_text, text

CONV = text(
    "a = Conv (x, w, b) r = Relu (a) p = MaxPool <kernel_shape = [2, 2]> (r) f = Flatten (p) y = MatMul (f, v)",
    "float[1,3,8,8] x",
    "float[1,5] y",
    "float[4,3,3,3] w, float[4] b, float[100,5] v",
)
LINEAR = text(
    "h = MatMul (x, w) y = MatMul (h, v)", "float[64,256] x", "float[64,256] y", "float[256,256] w, float[256,256] v"
)


@pytest.mark.parametrize("format", ["qdq", "qoperator"])
def test_calibrated_models_agree_with_their_simulation(format):
    done = quantize_text(CONV, format=format)
    simulated = simulate(done.float_model, done.plan)
    expected = run_model(simulated, dict(done.feeds))["y"]
    actual = run_model(done.model, dict(done.feeds), optimize=False)["y"]
    # Integer kernels round their sums once more where the simulation sums in float: at most a step of the last code.
    np.testing.assert_allclose(actual, expected, atol=0.02 * np.abs(expected).max())
    assert not {node.op_type for node in simulated.graph} & {"QuantizeLinear", "DequantizeLinear", "QLinearConv"}
    onnx.checker.check_model(ir.to_proto(simulated), full_check=True)


@pytest.mark.parametrize(
    "options",
    [
        {"format": "weight-only"},
        {"format": "dynamic"},
        {"format": "dynamic", "activations": "int8,symmetric,per-token"},
    ],
)
def test_formats_without_calibration_agree_with_their_simulation(options):
    done = quantize_text(LINEAR, **options)
    expected = run_model(simulate(done.float_model, done.plan), dict(done.feeds))["y"]
    actual = run_model(done.model, dict(done.feeds), optimize=False)["y"]
    np.testing.assert_allclose(actual, expected, atol=0.02 * np.abs(expected).max())


def test_the_rounding_is_that_of_the_operator():
    """Against hand-computed values: scale 1/255 of [0, 1], zero point 0."""
    model = model_from_text(text("y = MatMul (x, w)", "float[1,2] x", "float[1,1] y", "float[2,1] w = {1.0, 0.0}"))
    simulated = onnxq.simulate(model, calibrator="minmax", calibration=[{"x": np.array([[0.0, 1.0]], np.float32)}])
    for value, code in ((0.503, 128), (0.499, 127), (2.0, 255), (-1.0, 0)):
        found = run_model(simulated, {"x": np.array([[value, 0.0]], np.float32)})["y"]
        assert found[0, 0] == pytest.approx(code / 255, abs=1e-6)


def test_the_kind_of_model_is_kept():
    proto = ir.to_proto(model_from_text(LINEAR))
    assert isinstance(onnxq.simulate(proto, format="weight-only"), onnx.ModelProto)
