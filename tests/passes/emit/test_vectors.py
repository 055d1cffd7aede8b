"""Product quantization of weights: what the graph decodes are the vectors that numpy found; where it cannot be had."""

import numpy as np
import onnx_ir as ir
import pytest
from onnxq.errors import RecipeError
from onnxq.files.plan import plan_from_json, plan_to_json
from onnxq.graph.tensors import total_bytes
from onnxq.numerics.product_codes import product_quantize
from onnxq.runtime.session import run_model
from onnxq.stages.rewrite import simulate
from onnxq.types.recipe import Recipe
from onnxq.types.scheme import PerTensor, QuantType, Scheme
from tests.support.operators import WEIGHTS
from tests.support.quantizing import quantize_text, text

FORMS = ("matmul", "gemm alpha = 0.5", "gemm-transposed")
MATMUL = text("y = MatMul (x, w)", "float[9,128] x", "float[9,96] y", "float[128,96] w", opset=21)


def quantized(source=MATMUL, **weights):
    return quantize_text(source, format="weight-only", weights={"codebook": 8, "vector": 4, **weights})


def decoded(done, *, by_row, length=4, bits=8):
    weight = done.float_model.graph.initializers["w"].const_value.numpy()
    found = product_quantize(np.ascontiguousarray(weight.T) if by_row else weight, length=length, bits=bits).decoded()
    return np.ascontiguousarray(found.T) if by_row else found


@pytest.mark.parametrize(("length", "bits"), [(4, 8), (2, 4), (8, 6)])
@pytest.mark.parametrize("form", FORMS)
def test_a_model_computes_with_the_vectors_bit_for_bit(form, length, bits):
    done = quantized(WEIGHTS[form].text(opset=21), vector=length, codebook=bits)
    oracle = done.float_model.clone()
    values = decoded(done, by_row=form == "gemm-transposed", length=length, bits=bits)
    oracle.graph.initializers["w"].const_value = ir.tensor(values, name="w")
    for optimize in (False, True):
        expected = run_model(oracle, dict(done.feeds), optimize=optimize)["y"]
        np.testing.assert_array_equal(run_model(done.model, dict(done.feeds), optimize=optimize)["y"], expected)
    simulated = run_model(simulate(done.float_model, done.plan), dict(done.feeds), optimize=False)["y"]
    np.testing.assert_array_equal(simulated, run_model(oracle, dict(done.feeds), optimize=False)["y"])


def test_a_vector_costs_one_index():
    done = quantized()
    (tensor,) = done.plan.tensors.values()
    assert str(tensor.scheme) == "codebook(8) of 4 weights uint8 per-tensor"
    assert total_bytes(done.model) < 128 * 96 // 4 + 256 * 4 * 4 + 2048
    assert plan_from_json(plan_to_json(done.plan)) == done.plan


def test_errors_can_be_weighed_by_the_inputs():
    def missed(method):
        rng = np.random.default_rng(0)
        x = rng.standard_normal((200, 128)).astype(np.float32) * np.exp(rng.standard_normal(128)).astype(np.float32)
        graph = text("y = MatMul (x, w)", "float[200,128] x", "float[200,96] y", "float[128,96] w", opset=21)
        weights = {"codebook": 8, "vector": 4, "method": method}
        return quantize_text(graph, {"x": x}, format="weight-only", weights=weights).sqnr(optimize=True)

    assert missed("kmeans:importance=true") > missed("kmeans") + 0.5


@pytest.mark.parametrize(
    ("graph", "why"),
    [
        (("y = Conv (x, w)", "float[1,32,9] x", "float[1,48,7] y", "float[48,32,3] w"), "MatMul and Gemm only"),
        (("y = MatMul (x, w)", "float[2,5,72] x", "float[2,5,96] y", "float[2,72,96] w"), "MatMul and Gemm only"),
        (
            ("y = MatMul (x, w)", "float[5,70] x", "float[5,96] y", "float[70,96] w"),
            "70 weights an output are not a mult",
        ),
        (("y = Gather (w, i)", "int64[2,3] i", "float[2,3,72] y", "float[96,72] w"), "looked up value by value"),
    ],
)
def test_where_there_are_no_vectors_it_is_said(graph, why):
    feeds = {"i": np.zeros((2, 3), np.int64)} if "Gather" in graph[0] else None
    with pytest.raises(RecipeError, match=why):
        quantize_text(text(*graph, opset=21), feeds, format="weight-only", weights={"codebook": 8, "vector": 4})


def test_vectors_of_channels_are_refused():
    with pytest.raises(RecipeError, match="all vectors of a matrix are in one table"):
        quantized(granularity="per-channel")


def test_vectors_need_a_codebook():
    scheme = Scheme(dtype=QuantType.UINT8, symmetric=False)
    with pytest.raises(RecipeError, match=r"with `codebook\(8\)` beside it"):
        Recipe.parse({"weights": "vector=4"}).weights.over(scheme)


def test_the_short_form():
    weights = Recipe.parse({"weights": "codebook(8),vector=4"}).weights
    scheme = weights.over(Scheme(dtype=QuantType.INT8, symmetric=True))
    assert scheme == Scheme(dtype=QuantType.UINT8, symmetric=False, granularity=PerTensor(), codebook=8, vector=4)
    again = Recipe.parse({"weights": "int8,symmetric"}).weights.over(scheme)
    assert (again.codebook, again.vector) == (None, 1)
