"""Kernels that compute something else, with a real judge: what is repaired, and what stays."""

import math

import numpy as np
import onnx_ir as ir
import onnxq
import pytest
from onnxq.graph.text import model_from_text
from onnxq.runtime.saturation import adds_pairs
from onnxq.targets.processor import this_processor


def products(size: int, layers: int, generator: np.random.Generator, *, zeros: int | None = None) -> ir.Model:
    """Return products with Tanh between them; of the first, weights in every `zeros`-th row are 0."""
    names = ["x", *(f"t{i}" for i in range(1, layers)), "y"]
    chain = "".join(
        f"[m{i}] a{i} = MatMul ({names[i]}, w{i})  [n{i}] {names[i + 1]} = Tanh (a{i})\n" for i in range(layers)
    )
    declared = ", ".join(f"float[{size},{size}] w{i}" for i in range(layers))
    model = model_from_text(
        f'<ir_version: 10, opset_import: ["" : 21]>\n'
        f"g (float[B,{size}] x) => (float[B,{size}] y) <{declared}> {{ {chain} }}"
    )
    for i in range(layers):
        array = (generator.standard_normal((size, size)) / math.sqrt(size)).astype(np.float32)
        if zeros is not None and i == 0:
            array[::zeros] = 0
        model.graph.initializers[f"w{i}"].const_value = ir.tensor(array, name=f"w{i}")
    return model


def figures(report) -> tuple[float, float]:
    (output,) = report.verification.outputs
    return output.sqnr_plain, output.sqnr_served


def repeated(report, model, x, **options) -> bool:
    again = onnxq.quantize(model, calibration=[{"x": x}], recipe=report.recipe, **options)
    return bool(again.plan == report.plan and ir.to_proto(again.model) == ir.to_proto(report.model))


@pytest.mark.parametrize("portable", [False, True])
def test_inputs_that_the_kernel_rounds_away_are_given_to_it_exactly(portable):
    """One feature in a block is 500 times the others: rounding to 8 bits leaves nothing of these."""
    generator = np.random.default_rng(0)
    model = products(64, 2, generator, zeros=32)
    x = generator.standard_normal((16, 64)).astype(np.float32)
    x[:, ::32] *= 500
    options = {"calibration": [{"x": x}], "format": "weight-only", "prefer": "size", "portable": portable}
    before = figures(onnxq.quantize(model, **options, guard=False))
    report = onnxq.quantize(model, **options)
    decision = next(entry for entry in report.plan.decisions if entry.node == "m0")
    assert decision.reason.code == "kernel-fault"
    assert decision.accuracy_level == (None if portable else 1)
    assert "accuracy level 4, which rounds what it multiplies to 8 bits" in decision.reason.text
    plain, served = figures(report)
    assert served > before[1] + 6
    assert abs(plain - served) <= 1
    assert next(entry for entry in report.plan.decisions if entry.node == "m1").reason.code == "weights"
    assert repeated(report, model, x)


def test_an_accuracy_level_that_was_asked_for_stays():
    generator = np.random.default_rng(0)
    model = products(64, 2, generator, zeros=32)
    x = generator.standard_normal((16, 64)).astype(np.float32)
    x[:, ::32] *= 500
    report = onnxq.quantize(model, calibration=[{"x": x}], format="weight-only", prefer="size", accuracy_level=4)
    assert {entry.accuracy_level for entry in report.plan.decisions if entry.op == "MatMul"} == {4}


@pytest.fixture
def taken_for_vnni(monkeypatch):
    """The planner takes this processor for one with VNNI, whatever its kernels do."""
    monkeypatch.setenv("ONNXQ_PROCESSOR", "vnni")
    this_processor.cache_clear()
    yield
    this_processor.cache_clear()


def test_what_kernels_of_this_processor_do_is_not_repaired_for_another_one():
    generator = np.random.default_rng(0)
    model = products(64, 2, generator, zeros=32)
    x = generator.standard_normal((16, 64)).astype(np.float32)
    x[:, ::32] *= 500
    here = this_processor().target
    other = "cpu-arm64" if here != "cpu-arm64" else "cpu-vnni"
    options = {"calibration": [{"x": x}], "format": "weight-only", "prefer": "size"}
    codes = {}
    for target in (here, other):
        report = onnxq.quantize(model, **options, target=target)
        codes[target] = {entry.reason.code for entry in report.plan.decisions} & {"kernel-fault", "weights"}
        assert [step.why for step in report.guard.steps] == ["kernel-fault"] * (target == here)
    assert codes == {here: {"kernel-fault", "weights"}, other: {"weights"}}


@pytest.mark.parametrize("form", ["qdq", "qoperator", "dynamic"])
@pytest.mark.usefixtures("taken_for_vnni")
def test_weights_that_saturate_where_they_are_served_are_repaired(form):
    """Planned for a processor with VNNI, which this one is taken for; one without adds pairs in 16 bits."""
    generator = np.random.default_rng(1)
    model = products(64, 2, generator)
    x = generator.standard_normal((16, 64)).astype(np.float32)
    options = {"format": form, "target": "cpu-vnni", "prefer": "size", "placement": "everywhere"}
    before = figures(onnxq.quantize(model, calibration=[{"x": x}], **options, guard=False))
    report = onnxq.quantize(model, calibration=[{"x": x}], **options)
    plain, served = figures(report)
    assert plain - served <= 1
    assert (before[0] - before[1] > 3) is adds_pairs()
    found = {entry.node for entry in report.plan.decisions if entry.reason.code == "kernel-fault"}
    assert found <= {"m0", "m1"}
    assert bool(found) is adds_pairs()
    assert repeated(report, model, x)


SOFTMAX = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[64,1024] x) => (float[64,2] y) <float[1024,2] w> { [m] a = MatMul (x, w)  [s] y = Softmax (a) }
"""


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_a_softmax_that_rounds_otherwise_stays_in_float(form):
    x = np.random.default_rng(2).standard_normal((64, 1024)).astype(np.float32) / 32
    options = {"format": form, "prefer": "size", "placement": "everywhere", "calibration": [{"x": x}]}
    before = figures(onnxq.quantize(model_from_text(SOFTMAX), **options, guard=False))
    assert before[0] - before[1] > 1
    report = onnxq.quantize(model_from_text(SOFTMAX), **options)
    assert {entry.node: entry.reason.code for entry in report.plan.decisions}["s"] == "kernel-fault"
    plain, served = figures(report)
    assert plain - served <= 1
    assert served > before[1]


INNER = """
<ir_version: 10, opset_import: ["" : 21]>
g (bool c, float[16,64] x) => (float[16,64] y) <float[64,64] w1>
{
  [if] y = If (c) <
    then_branch = then () => (float[16,64] t) { [m] a = MatMul (x, w1)  [n] t = Tanh (a) },
    else_branch = other () => (float[16,64] e) { [n2] e = Tanh (x) }
  >
}
"""


def test_nodes_of_bodies_are_repaired_too():
    generator = np.random.default_rng(0)
    model = model_from_text(INNER)
    array = (generator.standard_normal((64, 64)) / 8).astype(np.float32)
    array[::32] = 0
    model.graph.initializers["w1"].const_value = ir.tensor(array, name="w1")
    x = generator.standard_normal((16, 64)).astype(np.float32)
    x[:, ::32] *= 500
    report = onnxq.quantize(model, calibration=[{"c": np.array(True), "x": x}], format="weight-only", prefer="size")
    decision = next(entry for entry in report.plan.decisions if entry.node == "if/then_branch/m")
    assert (decision.reason.code, decision.accuracy_level) == ("kernel-fault", 1)
