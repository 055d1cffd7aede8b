"""Products in front of Relu and Clip: what the plan says of them is what onnxruntime runs."""

import dataclasses

import onnx_ir as ir
import pytest
from onnxq.evaluate.kernels import read_kernels
from onnxq.graph.text import model_from_text
from onnxq.targets import Output, targets
from tests.support.quantizing import Quantized, quantize_model, text

PRODUCTS = {
    "Conv": ("p = Conv (x, w, b)", "float[1,8,6,6] x", "[1,8,4,4]", "float[8,8,3,3] w, float[8] b"),
    "MatMul": ("p = MatMul (x, w)", "float[4,32] x", "[4,32]", "float[32,32] w"),
    "Gemm": ("p = Gemm (x, w, b)", "float[4,32] x", "[4,32]", "float[32,32] w, float[32] b"),
}
CLAMPS = {
    "Relu": "c = Relu (p)",
    "Clip": "l = Constant <value_float = -1.0> () h = Constant <value_float = 2.0> () c = Clip (p, l, h)",
    "half a Clip": "l = Constant <value_float = -0.5> () c = Clip (p, l)",
    "a Clip that never returns 0": "l = Constant <value_float = 0.5> () c = Clip (p, l)",
    "a Clip without bounds": "c = Clip (p)",
    "a Clip with a bound that is computed": "l = ReduceMin <keepdims = 0> (x) c = Clip (p, l)",
}
READERS = {
    "one reader": ("y = Tanh (c)", "y"),
    "two readers": ("y = Tanh (c) z = Sin (c)", "y z"),
    "one that reads it twice": ("y = Pow (c, c)", "y"),
    "an output": ("", "c"),
    "an output with a reader": ("y = Tanh (c)", "c y"),
    "another clamp": ("d = Relu (c) y = Tanh (d)", "y"),
    "a quantized node": ("s = Sigmoid (c) y = Tanh (s)", "y"),
    "bodies": (
        "s = ReduceSum <keepdims = 0> (c) k = Cast <to = 9> (s) y = If (k) <then_branch = a () => (float u) "
        "{ u = ReduceMax <keepdims = 0> (c) }, else_branch = e () => (float v) { v = ReduceMin <keepdims = 0> (c) }>",
        "y",
    ),
}

# Every reader behind a Relu, every clamp in front of one reader and of two.
PLACES = [
    (clamp, readers) for clamp in CLAMPS for readers in READERS if clamp == "Relu" or readers in list(READERS)[:2]
]


def model(product: str, clamp: str, readers: str, opset: int = 17) -> ir.Model:
    body, inputs, shape, weights = PRODUCTS[product]
    after, outputs = READERS[readers]
    declared = ", ".join(f"float{'' if readers == 'bodies' else shape} {name}" for name in outputs.split())
    return model_from_text(text(f"{body} {CLAMPS[clamp]} {after}", inputs, declared, weights, opset))


def runs_as_planned(done: Quantized) -> None:
    """Hold the plan against the kernels that run."""
    kernels = read_kernels(done.float_model, done.model, done.plan)
    assert kernels.unfused == {}
    for node, expected in kernels.expected.items():
        if expected != "DequantizeLinear":
            assert kernels.actual[node].rpartition("::")[2] == expected, node


@pytest.mark.parametrize(
    ("product", "form", "activations"),
    [
        *((product, "qdq", "uint8") for product in PRODUCTS),
        ("MatMul", "qdq", "int8,symmetric"),
        ("Conv", "qoperator", "uint8"),
        ("MatMul", "qoperator", "uint8"),
    ],
)
@pytest.mark.parametrize(("clamp", "readers"), PLACES)
def test_what_is_planned_as_an_integer_kernel_runs_as_that(product, clamp, readers, activations, form):
    done = quantize_model(model(product, clamp, readers), format=form, activations=activations)
    assert done.reasons()[f"{product}_0"] == "integer-kernel"
    runs_as_planned(done)
    assert done.sqnr(optimize=True) > 15


@pytest.mark.parametrize(("product", "weights"), [("MatMul", "int8"), ("Gemm", "uint4,per-block(32)")])
@pytest.mark.parametrize(("clamp", "readers"), PLACES)
def test_weights_alone_are_unpacked_where_the_plan_says_so(product, clamp, readers, weights):
    done = quantize_model(model(product, clamp, readers, 21), format="weight-only", portable=True, weights=weights)
    (decision,) = (entry for entry in done.plan.decisions if entry.op == product)
    assert decision.reason.code == "weights"
    fused = "MatMulNBits" in done.kernels()
    assert ("MatMulNBits" in decision.reason.text) is fused
    assert ("fuses no product" in decision.reason.text) is not fused


@pytest.mark.parametrize(
    "row",
    [row for row in targets.get("cpu").rows if row.takes_clamp and not row.fused],
    ids=lambda row: f"{row.op}-{'-'.join(sorted(row.weights))}",
)
def test_the_runtime_still_wants_codes_behind_such_a_clamp(row, monkeypatch):
    """The fact itself: without this rule nothing is fused. It may go once a runtime fuses all the same."""
    target = targets.get("cpu")
    ignorant = tuple(dataclasses.replace(each, takes_clamp=False) for each in target.rows)
    monkeypatch.setattr(targets, "get", lambda name: dataclasses.replace(target, rows=ignorant))
    done = quantize_model(model(row.op, "Relu", "one reader"))
    assert list(read_kernels(done.float_model, done.model, done.plan).unfused) == [f"{row.op}_0"]


def test_every_kernel_that_may_return_float_from_a_group_is_marked():
    for row in targets.get("cpu").rows:
        if "qdq" in row.formats and row.weights:
            assert row.takes_clamp is (row.output is Output.OPTIONAL)
