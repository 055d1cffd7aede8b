"""What the weight-only emitter stores: codes once, however many read them, and no model that grows."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxq
import pytest
from onnxq.graph.text import model_from_text
from onnxq.runtime.session import run_model
from tests.support.operators import WEIGHTS
from tests.support.quantizing import quantize_text, text


def weight_only(body, inputs, output, constants, feeds=None):
    return quantize_text(text(body, inputs, output, constants, opset=21), feeds, format="weight-only")


TIED = text(
    "e = Gather (w, i) h = Tanh (e) t = Transpose <perm = [1, 0]> (w) y = MatMul (h, t)",
    "int64[2,3] i",
    "float[2,3,200] y",
    "float[200,64] w",
)


def test_a_table_that_is_also_a_transposed_weight_is_stored_once():
    report = onnxq.quantize(ir.to_proto(model_from_text(TIED)), format="weight-only", check=False)
    stored = {entry.name: onnx.numpy_helper.to_array(entry) for entry in report.model.graph.initializer}
    codes = [array for array in stored.values() if array.nbytes == 200 * 64 / 2]
    assert len(codes) == 1
    assert sum(array.nbytes for array in stored.values()) < 0.17 * 200 * 64 * 4
    feeds = {"i": np.array([[0, 5, 199], [7, -1, 100]])}
    expected = run_model(model_from_text(TIED), feeds)["y"]
    for optimize in (False, True):
        actual = run_model(ir.from_proto(report.model), feeds, optimize=optimize)["y"]
        assert np.sum(np.square(expected - actual)) < np.sum(np.square(expected)) * 10**-1.8


def test_a_table_that_gemm_reads_by_rows_is_stored_once():
    done = weight_only(
        "e = Gather (w, i) h = Tanh (e) y = Gemm <transB = 1> (h, w)",
        "int64[6] i",
        "float[6,200] y",
        "float[200,64] w",
        {"i": np.arange(6)},
    )
    assert sorted(done.plan.tensors) == ["w"]
    sizes = [value.const_value.nbytes for value in done.model.graph.initializers.values()]
    assert sizes.count(200 * 64 // 2) == 1
    assert done.sqnr(optimize=False) > 18
    assert done.sqnr(optimize=True) > 18


def test_a_weight_read_by_two_products_is_stored_once():
    done = weight_only(
        "a = MatMul (x, w) b = MatMul (z, w) y = Add (a, b)",
        "float[5,64] x, float[5,64] z",
        "float[5,24] y",
        "float[64,24] w",
    )
    assert sorted(done.model.graph.initializers) == ["w/quantized", "w/scale", "w/zero_point"]


def test_a_linear_model_in_four_bits_is_under_0_17_of_its_size():
    model = ir.to_proto(
        model_from_text(
            text(
                "a = Gemm (x, w, b) r = Relu (a) y = MatMul (r, v)",
                "float[1,512] x",
                "float[1,256] y",
                "float[512,512] w, float[512] b, float[512,256] v",
            )
        )
    )
    for portable in (False, True):
        report = onnxq.quantize(model, format="weight-only", check=False, portable=portable)
        assert report.model.ByteSize() < 0.17 * model.ByteSize()
        assert onnxq.quantize(model, format="weight-only", check=False).calibration["samples"] == 0


NEVER = ("gather-inner", "gather-middle")  # in this format


@pytest.mark.parametrize("family", [name for name in WEIGHTS if name not in NEVER and not name.startswith("gemm ")])
def test_no_model_grows(family):
    model = ir.to_proto(model_from_text(WEIGHTS[family].text()))
    for portable in (False, True):
        report = onnxq.quantize(model, format="weight-only", check=False, portable=portable)
        assert report.model.ByteSize() < model.ByteSize()


def test_weights_too_small_to_gain_stay_in_float():
    done = quantize_text(
        text("y = MatMul (x, w)", "float[2,6] x", "float[2,6] y", "float[6,6] w"), format="weight-only"
    )
    assert done.reasons() == {"MatMul_0": "no-gain"}
    assert "144 bytes" in done.decision("MatMul_0").reason.text
