import numpy as np
import pytest
from onnxq.graph.text import model_from_text
from onnxq.passes.manager import run_pipeline
from onnxq.runtime.session import run_model
from tests.support.quantizing import text

X = {"x": np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)}


def _fused(body, weights, inputs="float[4,8] x", outputs="float[4,6] y"):
    model = model_from_text(text(body, inputs, outputs, weights))
    fused, (record,) = run_pipeline(model, ["fuse-gemm"])
    expected, actual = run_model(model, X), run_model(fused, X)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=1e-5)
    return [node.op_type for node in fused.graph], record.modified, fused


@pytest.mark.parametrize("shape", ["[6]", "[1,6]"])
@pytest.mark.parametrize("body", ["m = MatMul (x, w) y = Add (m, b)", "m = MatMul (x, w) y = Add (b, m)"])
def test_a_bias_on_either_side_becomes_part_of_a_gemm_under_the_matmuls_name(body, shape):
    operators, modified, model = _fused(body, f"float[8,6] w, float{shape} b")
    assert (operators, modified) == (["Gemm"], True)
    assert model.graph[0].name == "MatMul_0"


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("m = MatMul (x, w) y = Add (m, b)", "float[8,6] w, float[2,4,6] b"),  # Gemm cannot broadcast its result
        ("m = MatMul (x, w) y = Add (m, b)", "float[8,6] w, float[4,6] b"),
        ("c = Neg (b) m = MatMul (x, w) y = Add (m, c)", "float[8,6] w, float[6] b"),
        ("m = MatMul (x, w) n = Neg (m) a = Add (m, b) y = Mul (a, n)", "float[8,6] w, float[6] b"),
    ],
)
def test_what_is_no_bias_stays(body, weights):
    outputs = "float[2,4,6] y" if "[2,4,6]" in weights else "float[4,6] y"
    operators, modified, _ = _fused(body, weights, outputs=outputs)
    assert "Gemm" not in operators
    assert not modified


def test_a_product_that_is_a_graph_output_stays():
    operators, _, _ = _fused(
        "m = MatMul (x, w) y = Add (m, b)", "float[8,6] w, float[6] b", outputs="float[4,6] y, float[4,6] m"
    )
    assert operators == ["MatMul", "Add"]
