import numpy as np
import pytest
from onnxq.graph.text import model_from_text
from onnxq.passes.manager import run_pipeline
from onnxq.runtime.readback import op_counts, optimized_graph
from onnxq.runtime.session import run_model
from tests.support.quantizing import text

X = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)


def _normalized(attributes, bias, transposed=False):
    weight = "float[6,8] w" if transposed else "float[8,6] w"
    third = ", b" if bias is not None else ""
    weights = f"{weight}, float{bias} b" if bias is not None else weight
    model = model_from_text(text(f"y = Gemm <{attributes}> (x, w{third})", "float[4,8] x", "float[4,6] y", weights))
    done, _ = run_pipeline(model, ["normalize-gemm"])
    np.testing.assert_allclose(run_model(done, {"x": X})["y"], run_model(model, {"x": X})["y"], rtol=1e-4, atol=1e-5)
    return done


@pytest.mark.parametrize("bias", ["", "[1]", "[6]", "[1,1]", "[1,6]"])
@pytest.mark.parametrize(
    "attributes", ["alpha = 0.5", "beta = 3.0", "alpha = 0.5, beta = 0.25, transB = 1", "transB = 1"]
)
def test_alpha_beta_and_the_bias_shape_are_folded(attributes, bias):
    done = _normalized(attributes, bias, transposed="transB" in attributes)
    (node,) = done.graph
    assert node.attributes.get_float("alpha", 1.0) == node.attributes.get_float("beta", 1.0) == 1.0
    assert tuple(node.inputs[2].shape) == (6,)


@pytest.mark.parametrize("bias", ["[4,6]", "[4,1]"])
@pytest.mark.parametrize("attributes", ["beta = 2.0", "alpha = 0.5"])
def test_a_bias_that_differs_by_row_is_added_behind(attributes, bias):
    done = _normalized(attributes, bias)
    assert [node.op_type for node in done.graph] == ["Gemm", "Add"]
    assert [value.name for value in done.graph.outputs] == ["y"]


def test_a_transposed_first_operand_gets_a_node_that_the_runtime_takes_back_in_float():
    graph = text(
        "y = Gemm <transA = 1, alpha = 0.5> (x, w, b)", "float[8,4] x", "float[4,6] y", "float[8,6] w, float[6] b"
    )
    model = model_from_text(graph)
    done, _ = run_pipeline(model, ["normalize-gemm"])
    assert [node.op_type for node in done.graph] == ["Transpose", "Gemm"]
    assert "transA" not in done.graph[1].attributes
    expected, actual = (run_model(each, {"x": X.T.copy()})["y"] for each in (model, done))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    assert set(op_counts(optimized_graph(done, layout=False))) == {"Gemm"}


def test_alpha_without_a_bias():
    assert len(_normalized("alpha = 2.0", None).graph[0].inputs) == 2


def test_a_shared_weight_is_scaled_for_one_reader_only():
    body = "a = Gemm <alpha = 0.5> (x, w) b = Gemm (x, w) y = Sub (a, b)"
    model = model_from_text(text(body, "float[4,8] x", "float[4,6] y", "float[8,6] w"))
    done, _ = run_pipeline(model, ["normalize-gemm"])
    np.testing.assert_allclose(run_model(done, {"x": X})["y"], run_model(model, {"x": X})["y"], rtol=1e-4, atol=1e-5)


def test_computed_operands_are_left_alone():
    body = "v = Neg (w) y = Gemm <alpha = 0.5> (x, v)"
    model = model_from_text(text(body, "float[4,8] x", "float[4,6] y", "float[8,6] w"))
    _, (record,) = run_pipeline(model, ["normalize-gemm"])
    assert not record.modified
