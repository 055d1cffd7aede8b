"""Where scales go: each graph computes the same with its inputs scaled, and the constants changed are those named."""

import numpy as np
import onnx_ir as ir
import pytest
from onnxq.graph.text import model_from_text
from onnxq.passes.equalize.rescale import Rescaling
from onnxq.passes.manager import run_pipeline
from onnxq.runtime.session import run_model
from onnxq.stages.equalize.fold import Folded, fold
from onnxq.stages.prepare import prepare
from tests.support.quantizing import text

X = "float[2,5,8] x"
LINEAR = "float[8,12] w, float[12] b, float[12,4] v"
IMAGE = "float[2,3,8,8] x"
CONV = "float[6,3,3,3] w, float[6] b, float[4,6,1,1] v"
CASES = {
    "norm": ("h = LayerNormalization (x, g, o) y = MatMul (h, v)", X, "float[8] g, float[8] o, float[8,4] v", "g o"),
    "gamma": (
        "u = Div (x, x1) h = Mul (u, g) y = MatMul (h, v)",
        f"{X}, float[2,5,1] x1",
        "float[8] g, float[8,4] v",
        "g",
    ),
    "bias": ("a = MatMul (x, w) h = Add (b, a) y = MatMul (h, v)", X, LINEAR, "w b"),
    "relu": ("a = MatMul (x, w) c = Add (a, b) h = Relu (c) y = MatMul (h, v)", X, LINEAR, "w b"),
    "gated": (
        "a = MatMul (x, w) s = Sigmoid (a) c = MatMul (x, u) h = Mul (s, c) y = MatMul (h, v)",
        X,
        f"{LINEAR}, float[8,12] u",
        "u",
    ),
    "half": ("a = MatMul (x, w) h = Mul (a, c) y = MatMul (h, v)", X, f"{LINEAR}, float c", "w"),
    "gemm": (
        "a = Gemm <alpha = 0.5, transB = 1> (x, w, b) h = Relu (a) y = Gemm <transB = 1> (h, v)",
        "float[5,8] x",
        "float[12,8] w, float[12] b, float[4,12] v",
        "w/alpha b",
    ),
    "conv": (
        "a = Conv (x, w, b) h = LeakyRelu (a) m = MaxPool <kernel_shape = [2, 2]> (h) y = Conv (m, v)",
        IMAGE,
        CONV,
        "w b",
    ),
    "pooled": (
        "a = Conv (x, w, b) p = GlobalAveragePool (a) h = Flatten (p) y = MatMul (h, v)",
        IMAGE,
        "float[6,3,3,3] w, float[6] b, float[6,4] v",
        "w b",
    ),
    "heads": (
        "a = MatMul (x, w) c = Add (a, b) r = Reshape (c, n) t = Transpose <perm = [0, 2, 1, 3]> (r)"
        " p = MatMul (x2, t) q = Transpose <perm = [0, 2, 1, 3]> (p) h = Reshape (q, m) y = MatMul (h, v)",
        f"{X}, float[2,3,5,5] x2",
        f"{LINEAR}, int64[4] n = {{0, 0, 3, 4}}, int64[3] m = {{0, 0, 12}}",
        "w b",
    ),
}


RANKS = {"gemm": 2, "conv": 4, "pooled": 2}


def _model(body, inputs, weights, rank=3):
    model = model_from_text(text(body, inputs, f"float[{','.join('abcd'[:rank])}] y", weights))
    rng = np.random.default_rng(3)
    for value in model.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT:
            value.const_value = ir.tensor(rng.standard_normal(value.shape.numpy()).astype(np.float32), name=value.name)
    return prepare(model).model


def _feeds(model):
    rng = np.random.default_rng(4)
    return {v.name: rng.uniform(0.5, 2, v.shape.numpy()).astype(np.float32) for v in model.graph.inputs}


@pytest.mark.parametrize("case", CASES)
def test_a_scale_goes_where_it_should_and_the_outputs_stay(case):
    body, inputs, weights, expected = CASES[case]
    model = _model(body, inputs, weights, RANKS.get(case, 3))
    last = next(node for node in model.graph if node.outputs[0].name == "y")
    value = last.inputs[0]
    axis = 1 if last.op_type == "Conv" else len(value.shape) - 1
    scale = np.random.default_rng(5).uniform(0.25, 4, value.shape[axis])
    shape = [1] * len(value.shape)
    shape[axis] = -1
    place = fold(value, 1 / scale.reshape(shape), [last])
    assert isinstance(place, Folded), place
    assert sorted(place.factors) == sorted(expected.split())
    rows = {"v": scale.reshape([1, -1] + [1] * (len(last.inputs[1].shape) - 2))}
    if last.op_type == "MatMul":
        rows = {"v": scale.reshape(-1, 1)}
    changed, _ = run_pipeline(
        model, ["rescale"], options={"rescale": {"rescaling": Rescaling(factors=place.factors | rows)}}
    )
    feeds = _feeds(model)
    before, after = (run_model(each, feeds, optimize=False)["y"] for each in (model, changed))
    np.testing.assert_allclose(after, before, rtol=2e-5, atol=2e-5 * np.abs(before).max())
    inner = changed.clone()
    # what is read by the last node is what was asked for, not merely undone again
    for each, factor in ((model, 1 / scale.reshape(shape)), (inner, None)):
        output = next(v for node in each.graph for v in node.outputs if v.name == value.name)
        each.graph.outputs.append(output)
        if factor is not None:
            expected_inner = run_model(each, feeds, optimize=False)[value.name] * factor
        else:
            got = run_model(each, feeds, optimize=False)[value.name]
    np.testing.assert_allclose(got, expected_inner, rtol=2e-5, atol=2e-5 * np.abs(expected_inner).max())


REFUSALS = {
    "two readers": (
        "h = LayerNormalization (x, g) y = MatMul (h, v) z = Relu (h)",
        "float[8] g, float[8,4] v",
        "reads 'h' too",
    ),
    "gelu": ("a = Erf (x) h = Mul (a, x) y = MatMul (h, v)", "float[8,4] v", "'x' is an input|reads 'x' too"),
    "tanh": (
        "a = MatMul (x, w) h = Tanh (a) y = MatMul (h, v)",
        "float[8,8] w, float[8,4] v",
        "no scale passes through Tanh",
    ),
    "residual": (
        "a = MatMul (x, w) h = Add (a, x) y = MatMul (h, v)",
        "float[8,8] w, float[8,4] v",
        "both sides of the sum 'add' would",
    ),
    "one offset": (
        "a = MatMul (x, w) h = Add (a, o) y = MatMul (h, v)",
        "float[8,8] w, float[8,4] v, float o",
        "both sides",
    ),
    "shared": (
        "a = MatMul (x, w) h = Relu (a) y = MatMul (h, v) z = MatMul (x, w)",
        "float[8,8] w, float[8,4] v",
        "'w' is read by",
    ),
    "clip": (
        "a = MatMul (x, w) h = Clip (a, o, e) y = MatMul (h, v)",
        "float[8,8] w, float[8,4] v, float o, float e",
        "Clip",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_takes_no_scale_says_why(case):
    body, weights, why = REFUSALS[case]
    outputs = "float[a,b,c] y, float[a,b,d] z" if "z =" in body else "float[a,b,c] y"
    model = prepare(model_from_text(text(body, X, outputs, weights)), pipeline="fix-names,infer-shapes").model
    for node in model.graph:
        node.name = "add" if node.op_type == "Add" else node.name
    last = next(node for node in model.graph if node.outputs[0].name == "y")
    answer = fold(last.inputs[0], np.full((1, 1, 8), 2.0), [last])
    assert isinstance(answer, str)
    assert any(part in answer for part in why.split("|")), answer


def test_heads_that_share_a_value_take_no_scale_of_their_own():
    body = "a = MatMul (x, w) r = Reshape (a, n) p = MatMul (x2, r) h = Reshape (p, m) y = MatMul (h, v)"
    model = _model(
        body,
        f"{X}, float[2,3,5,5] x2",
        "float[8,4] w, float[60,4] v, int64[4] n = {2, 1, 5, 4}, int64[2] m = {2, 60}",
        rank=2,
    )
    last = next(node for node in model.graph if node.outputs[0].name == "y")
    answer = fold(last.inputs[0], np.random.default_rng(0).uniform(1, 2, (1, 60)), [last])
    assert isinstance(answer, str)
    assert "does not pass through the product" in answer
