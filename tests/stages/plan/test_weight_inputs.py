"""What weight methods get to know of the values that weights are multiplied with, against numpy."""

import itertools
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import pytest
from onnxq.errors import PlanError
from onnxq.graph.tensors import total_bytes
from onnxq.graph.text import model_from_text
from onnxq.stages.rewrite import rewrite, simulate
from onnxq.types.inputs import Needs
from onnxq.weights import weight_methods
from onnxq.weights.rtn import RoundToNearest
from tests.support.quantizing import plan_for, quantize_model, quantize_text, text

RNG = np.random.default_rng(5)
GIVEN = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Spy:
    """Rounds to nearest, and keeps what it was given by the weight's shape."""

    needs = Needs.PRODUCTS

    def __call__(self, weight, scheme, *, min_scale=None, inputs=None):
        GIVEN[weight.shape] = inputs
        return RoundToNearest()(weight, scheme, min_scale=min_scale)


@pytest.fixture(autouse=True)
def spy(monkeypatch):
    assert "spy" not in weight_methods
    monkeypatch.setitem(weight_methods._entries, "spy", Spy)
    GIVEN.clear()


def _values(*shape):
    """Features of very different sizes, wherever they lie."""
    return (RNG.standard_normal(shape) * np.exp(RNG.standard_normal(shape[1:]))).astype(np.float32)


CASES = {  # graph, shape of x, of the weight, of y; feature axis of x and of the weight
    "MatMul": ("y = MatMul (x, w)", (6, 40), (40, 48), (6, 48), -1, 0),
    "MatMul 3-D": ("y = MatMul (x, w)", (2, 6, 40), (40, 48), (2, 6, 48), -1, 0),
    "Gemm": ("y = Gemm (x, w)", (6, 40), (40, 48), (6, 48), 1, 0),
    "Gemm transA transB": ("y = Gemm <transA = 1, transB = 1> (x, w)", (40, 6), (48, 40), (6, 48), 0, 1),
    "Conv 1x1": ("y = Conv (x, w)", (2, 40, 3, 3), (48, 40, 1, 1), (2, 48, 3, 3), 1, 1),
    "ConvTranspose 1x1": ("y = ConvTranspose (x, w)", (2, 40, 3, 3), (40, 48, 1, 1), (2, 48, 3, 3), 1, 0),
}


def _quantize(case, form, **options):
    body, x, w, y, *axes = CASES[case]
    shapes = [",".join(map(str, shape)) for shape in (x, y, w)]
    feeds = {"x": _values(*x)}
    graph = text(body, f"float[{shapes[0]}] x", f"float[{shapes[1]}] y", f"float[{shapes[2]}] w", opset=21)
    quantize_text(graph, feeds, format=form, weights={"method": "spy"}, **options)
    return feeds["x"], w, axes


FORMATS = ("qdq", "qoperator", "dynamic", "weight-only")
NO_KERNEL = {
    *((case, form) for case in ("Gemm transA transB", "ConvTranspose 1x1") for form in ("qdq", "qoperator")),
    ("ConvTranspose 1x1", "dynamic"),
}


@pytest.mark.parametrize(
    ("case", "form"), [pair for pair in itertools.product(CASES, FORMATS) if pair not in NO_KERNEL]
)
def test_moments_are_those_of_the_features(case, form):
    x, shape, (feature, weight) = _quantize(case, form, placement="everywhere")
    (inputs,) = GIVEN.values()
    places = np.moveaxis(x.astype(np.float64), feature, -1).reshape(-1, 40)
    assert inputs.axis % len(shape) == (weight if next(iter(GIVEN)) == shape else 1 - weight)
    np.testing.assert_allclose(inputs.squares, np.mean(places**2, axis=0), rtol=1e-9)
    np.testing.assert_allclose(inputs.products, places.T @ places / len(places), rtol=1e-9, atol=1e-9)


def test_kernels_larger_than_one_and_groups_have_squares_alone():
    graph = text(
        "a = Conv <kernel_shape = [3, 3]> (x, v) y = Conv <group = 4> (x, w)",
        "float[2,40,5,5] x",
        "float[2,40,3,3] a, float[2,64,5,5] y",
        "float[40,40,3,3] v, float[64,10,1,1] w",
    )
    x = _values(2, 40, 5, 5)
    quantize_text(graph, {"x": x}, format="weight-only", weights={"method": "spy"})
    plain, grouped = GIVEN[40, 40, 3, 3], GIVEN[64, 10, 1, 1]
    assert plain.products is None
    assert grouped.products is None
    squares = np.mean(np.square(x, dtype=np.float64), axis=(0, 2, 3))
    np.testing.assert_allclose(plain.importance((40, 40, 3, 3)).reshape(-1), squares, rtol=1e-6)
    expected = np.repeat(squares.reshape(4, 10), 16, axis=0)  # outputs 0 to 15 sum over the first ten channels
    np.testing.assert_allclose(grouped.importance((64, 10, 1, 1))[:, :, 0, 0], expected, rtol=1e-6)


def test_a_weight_of_several_readers_goes_by_the_inputs_of_all():
    graph = text(
        "a = MatMul (x, w) t = Tanh (x) y = MatMul (t, w)",
        "float[6,40] x",
        "float[6,48] a, float[6,48] y",
        "float[40,48] w",
    )
    x = _values(6, 40)
    done = quantize_text(graph, {"x": x}, format="weight-only", weights={"method": "spy"})
    assert done.plan.tensors["w"].features_from == ("t", "x")
    (inputs,) = GIVEN.values()
    both = np.concatenate([x, np.tanh(x)]).astype(np.float64)
    np.testing.assert_allclose(inputs.squares, np.mean(both**2, axis=0), rtol=1e-6)


TIED = text(
    "e = Gather (w, ids) t = Transpose <perm = [1, 0]> (w) y = MatMul (x, t)",
    "int64[3] ids, float[6,64] x",
    "float[3,64] e, float[6,128] y",
    "float[128,64] w",
)


def test_an_embedding_tied_to_a_product_goes_by_the_products_inputs_and_is_stored_once():
    x = _values(6, 64)
    feeds = {"ids": np.array([5, 0, 127]), "x": x}
    done = quantize_text(TIED, feeds, format="weight-only", weights={"method": "mse:importance=true"})
    assert done.plan.tensors["w"].features_from == done.plan.tensors["t"].features_from == ("x",)
    assert (done.plan.tensors["w"].feature_axis, done.plan.tensors["t"].feature_axis) == (1, 0)
    stored = [value for value in done.model.graph.initializers.values() if value.const_value.nbytes == 128 * 64 // 2]
    assert len(stored) == 1


@pytest.mark.parametrize("form", ["weight-only", "dynamic"])
def test_so_does_an_embedding_whose_copy_is_multiplied(form):
    graph = text(
        "e = Gather (w, ids) y = MatMul (x, v)",
        "int64[3] ids, float[6,64] x",
        "float[3,64] e, float[6,512] y",
        "float[512,64] w, float[64,512] v",
    )
    model = model_from_text(graph)
    weight = model.graph.initializers["w"].const_value.numpy()
    model.graph.initializers["v"].const_value = ir.tensor(np.ascontiguousarray(weight.T), name="v")
    feeds = {"ids": np.array([5, 0, 127]), "x": _values(6, 64)}
    done = quantize_model(model, feeds, format=form, weights={"method": "mse:importance=true"})
    assert done.plan.tensors["w"].features_from == done.plan.tensors["v"].features_from == ("x",)
    assert (done.plan.tensors["w"].feature_axis, done.plan.tensors["v"].feature_axis) == (1, 0)
    assert total_bytes(done.model) < (0.2 if form == "weight-only" else 0.3) * 512 * 64 * 4


def test_without_observed_inputs_the_method_does_without_and_the_plan_says_so():
    graph = text("y = Gather (w, ids)", "int64[3] ids", "float[3,64] y", "float[128,64] w")
    done = quantize_text(graph, {"ids": np.array([5, 0, 7])}, format="weight-only", weights={"method": "spy"})
    assert GIVEN[128, 64] is None
    assert done.plan.tensors["w"].reason == "constant; no input was observed"


def test_weighing_errors_makes_the_output_better():
    x = _values(64, 96)
    graph = text("y = MatMul (x, w)", "float[64,96] x", "float[64,48] y", "float[96,48] w")
    plain, weighed = (
        quantize_text(graph, {"x": x}, format="weight-only", weights={"method": method})
        for method in ("mse", "mse:importance=true")
    )
    assert weighed.sqnr(optimize=True) > plain.sqnr(optimize=True) + 1


def test_a_plan_that_uses_statistics_is_not_carried_out_without():
    model = model_from_text(text("y = MatMul (x, w)", "float[6,40] x", "float[6,48] y", "float[40,48] w"))
    plan = plan_for(model, {"x": _values(6, 40)}, format="weight-only", weights={"method": "spy"})
    assert plan.uses_statistics
    for carry_out in (rewrite, simulate):
        with pytest.raises(Exception, match="statistics of 'x' that are not given") as caught:
            carry_out(model, plan)
        assert isinstance(caught.value.__cause__, PlanError)
