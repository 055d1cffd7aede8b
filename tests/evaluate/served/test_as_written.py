"""What the graph says, against exact integer arithmetic: on processors that add in 16 bits the kernels are not."""

import numpy as np
import onnx_ir as ir
import pytest
from onnxq.evaluate.served import as_written
from onnxq.graph.text import model_from_text
from onnxq.graph.walk import nodes
from onnxq.runtime.session import run_model
from tests.support.models import model_with

PRODUCT = """
<ir_version: 8, opset_import: ["" : 13]>
g (uint8[3,8] a, int8[8,4] b, uint8 za, int8[4] zb) => (int32[3,4] y) { [m] y = MatMulInteger (a, b, za, zb) }
"""
CONVOLUTION = """
<ir_version: 8, opset_import: ["" : 13]>
g (uint8[1,4,5,5] x, int8[2,2,3,3] w, uint8 zx) => (int32[1,2,3,3] y)
{ [c] y = ConvInteger <group = 2> (x, w, zx) }
"""
LINEAR = """
<ir_version: 8, opset_import: ["" : 13, "com.microsoft" : 1]>
g (float[2,8] x) => (uint8[2,4] z, float[2,4] y)
<float s = {0.05}, uint8 p = {128}, int8[8,4] w, float[4] sw, int8[4] pw>
{
  [q] a = QuantizeLinear (x, s, p)
  [m] b = QLinearMatMul (a, s, p, w, sw, pw, s, p)
  [s1] z = com.microsoft.QLinearSigmoid (b, s, p, s, p)
  [d] y = DequantizeLinear (b, s, p)
}
"""


def operators(model: ir.Model) -> set[str]:
    return {node.op_type for _, node in nodes(model)}


def test_products_of_codes_become_exact_sums():
    """All pairs are as heavy as they can be: PMADDUBSW would give 32767 for each."""
    feeds = {
        "a": np.full((3, 8), 255, np.uint8),
        "b": np.full((8, 4), 127, np.int8),
        "za": np.array(3, np.uint8),
        "zb": np.array([0, -7, 5, 127], np.int8),
    }
    written = as_written(model_from_text(PRODUCT))
    assert "MatMulInteger" not in operators(written)
    expected = (feeds["a"].astype(np.int64) - 3) @ (feeds["b"].astype(np.int64) - feeds["zb"])
    np.testing.assert_array_equal(run_model(written, feeds)["y"], expected)


def test_zero_points_of_rows_are_left_to_the_kernel():
    text = PRODUCT.replace("uint8 za", "uint8[3] za")
    model = model_from_text(text)
    assert "MatMulInteger" in operators(as_written(model))


def test_convolutions_of_codes_become_exact_sums():
    rng = np.random.default_rng(0)
    feeds = {
        "x": rng.integers(200, 256, (1, 4, 5, 5)).astype(np.uint8),
        "w": rng.choice([-128, 127], (2, 2, 3, 3)).astype(np.int8),
        "zx": np.array(100, np.uint8),
    }
    written = as_written(model_from_text(CONVOLUTION))
    assert "ConvInteger" not in operators(written)
    x, w = feeds["x"].astype(np.int64) - 100, feeds["w"].astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    expected = np.stack([np.einsum("cijkl,ckl->ij", windows[0, 2 * g : 2 * g + 2], w[g]) for g in range(2)])[None]
    np.testing.assert_array_equal(run_model(written, feeds)["y"], expected)


def test_integer_operators_are_written_out_and_values_keep_their_names():
    rng = np.random.default_rng(1)
    arrays = {
        "w": rng.integers(-128, 128, (8, 4)).astype(np.int8),
        "sw": np.full(4, 0.01, np.float32),
        "pw": np.zeros(4, np.int8),
    }
    model = model_with(LINEAR, **arrays)
    before = {value.name for _, node in nodes(model) for value in node.outputs}
    written = as_written(model)
    assert not {op for op in operators(written) if op.startswith("QLinear")}
    assert before <= {value.name for _, node in nodes(written) for value in node.outputs}
    assert "QLinearMatMul" in operators(model)
    x = rng.uniform(-5, 5, (2, 8)).astype(np.float32)
    a = np.clip(np.rint(x / np.float32(0.05)) + 128, 0, 255).astype(np.int64)
    product = (a - 128) @ arrays["w"].astype(np.int64) * 0.05 * 0.01
    b = np.clip(np.rint(product / np.float64(np.float32(0.05))), -128, 127)
    found = run_model(written, {"x": x})["y"]
    np.testing.assert_allclose(found, b * 0.05, atol=0.0501)  # one code, where a float32 sum lies between two
    assert np.mean(np.abs(found - b * 0.05) > 1e-5) < 0.1


@pytest.mark.parametrize("exact", [False, True])
def test_rounding_inside_a_kernel_goes_only_where_that_is_asked_for(exact):
    text = """
    <ir_version: 8, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (float[1,32] x) => (float[1,2] y) <uint8[2,1,16] w, float[2] s>
    { y = com.microsoft.MatMulNBits <K = 32, N = 2, bits = 4, block_size = 32, accuracy_level = 4> (x, w, s) }
    """
    model = model_with(text, w=np.zeros((2, 1, 16), np.uint8))
    written = as_written(model, exact_inputs=exact)
    assert (written is model) is not exact
    assert next(iter(written.graph)).attributes.get_int("accuracy_level", 0) == (1 if exact else 4)
    assert next(iter(model.graph)).attributes.get_int("accuracy_level", 0) == 4


def test_a_float_model_is_what_it_says():
    model = model_from_text('<ir_version: 8, opset_import: ["" : 13]> g (float[1] x) => (float[1] y) { y = Tanh (x) }')
    assert as_written(model) is model
