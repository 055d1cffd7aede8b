"""Models as served against what their graphs say: figures, and where they depart."""

import math

import numpy as np
import onnx_ir as ir
import pytest
from onnxq.data import open_source, signature
from onnxq.evaluate.served import Gap, Served, departures, falls_short, notable, why_served_differs
from onnxq.graph.text import model_from_text
from onnxq.runtime.saturation import adds_pairs
from onnxq.runtime.session import run_model
from tests.support.models import model_with
from tests.support.quantizing import quantize_model

TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[8,64] x) => (float[8,32] y) <float[64,32] w1, float[32,32] w2>
{ [m1] a = MatMul (x, w1)  [t1] b = Tanh (a)  [m2] y = MatMul (b, w2) }
"""


def layers(rng: np.random.Generator) -> ir.Model:
    """Return two products, the first of weights that are 0 where `features` are large."""
    model = model_from_text(TEXT)
    for name in ("w1", "w2"):
        array = rng.standard_normal(tuple(model.graph.initializers[name].shape)).astype(np.float32)
        array[::32] = 0
        model.graph.initializers[name].const_value = ir.tensor(array, name=name)
    return model


def features(rng: np.random.Generator) -> np.ndarray:
    """Return inputs of which one feature in a block is 500 times the others."""
    x = rng.standard_normal((8, 64)).astype(np.float32)
    x[:, ::32] *= 500
    return x


def served(model: ir.Model, x: np.ndarray) -> Served:
    return Served(model, open_source([{"x": x}], signature(model)), threads=1)


def decibel(expected: np.ndarray, found: np.ndarray) -> float:
    expected = expected.astype(np.float64)
    return float(10 * np.log10(np.sum(expected**2) / np.sum((expected - found) ** 2)))


@pytest.mark.parametrize("portable", [False, True])
def test_what_a_kernel_rounds_is_seen_whether_it_is_written_or_fused(portable):
    rng = np.random.default_rng(0)
    model, x = layers(rng), features(rng)
    done = quantize_model(model, {"x": x}, format="weight-only", portable=portable)
    gap = served(model, x).gap(done.model)
    expected = run_model(model, {"x": x})["y"]
    assert gap.served == pytest.approx(decibel(expected, run_model(done.model, {"x": x}, optimize=True)["y"]), abs=0.1)
    exact = quantize_model(model, {"x": x}, format="weight-only", accuracy_level=1)
    assert gap.plain == pytest.approx(decibel(expected, run_model(exact.model, {"x": x})["y"]), abs=0.3)
    assert gap.open
    assert gap.plain - gap.served > 6
    (worst, *_) = departures(done.model, [{"x": x}], threads=1)
    assert (worst.tensor, worst.nodes[0]) == ("a", "m1")
    assert [node.op_type for node in worst.ran] == ["MatMulNBits"]


def test_an_accuracy_level_that_was_asked_for_may_round():
    rng = np.random.default_rng(0)
    model, x = layers(rng), features(rng)
    done = quantize_model(model, {"x": x}, format="weight-only", accuracy_level=4)
    assert not served(model, x).gap(done.model, rounding=False).open


@pytest.mark.parametrize("form", ["qdq", "qoperator", "dynamic"])
def test_pairs_that_saturate_are_seen_in_every_format(form):
    """Written integer operators run the same kernels with the optimizer off: these are no measure of themselves."""
    rng = np.random.default_rng(2)
    model = model_from_text(TEXT)
    for name in ("w1", "w2"):
        shape = tuple(model.graph.initializers[name].shape)
        signs = rng.choice([-1.0, 1.0], (shape[0] // 2, shape[1])).repeat(2, axis=0)
        array = (signs * rng.uniform(0.8, 1.0, shape)).astype(np.float32)
        model.graph.initializers[name].const_value = ir.tensor(array, name=name)
    x = rng.uniform(0.5, 1.0, (8, 64)).astype(np.float32)
    done = quantize_model(model, {"x": x}, format=form, target="cpu-vnni", placement="everywhere")
    gap = served(model, x).gap(done.model)
    assert gap.open is adds_pairs()
    if adds_pairs():
        assert gap.plain > 25
        found = departures(done.model, [{"x": x}], threads=1)
        assert {"m1", "m2"} <= {name.partition("/")[0] for each in found for name in each.nodes}
        text = why_served_differs(done.model, open_source([{"x": x}], signature(model)), target=None, threads=1)
        assert "saturate" in text
        assert "unknown" not in text


INTEGERS = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[8,64] x) => (float[8,32] y)
<float s = {0.01}, int8 p = {0}, int8[64,32] w, float sw = {0.01}, int8 pw = {0}, float sy = {1.0}>
{
  q = QuantizeLinear (x, s, p)  xd = DequantizeLinear (q, s, p)  wd = DequantizeLinear (w, sw, pw)
  [m] a = MatMul (xd, wd)  qa = QuantizeLinear (a, sy, p)  ad = DequantizeLinear (qa, sy, p)  [t] y = Tanh (ad)
}
"""


def test_int8_activations_that_become_uint8_are_looked_through():
    """The runtime renames all codes there, and reading what it dequantizes would keep it from doing so."""
    rng = np.random.default_rng(3)
    codes = rng.integers(60, 128, (32, 32)).repeat(2, axis=0).astype(np.int8)
    codes *= rng.choice(np.array([-1, 1], np.int8), (32, 32)).repeat(2, axis=0)
    model = model_with(INTEGERS, w=codes)
    x = rng.uniform(0.9, 1.27, (8, 64)).astype(np.float32) / 8
    source = open_source([{"x": x}], signature(model))
    off, on = (run_model(model, {"x": x}, optimize=on)["y"] for on in (False, True))
    text = why_served_differs(model, source, target=None, threads=1)
    assert ("saturate" in text) is (adds_pairs() and not np.allclose(off, on, atol=0.01))


@pytest.mark.parametrize(
    ("plain", "served", "says", "short"),
    [
        (36.3, 35.4, False, False),
        (36.3, 35.2, True, True),
        (36.3, 37.4, True, False),
        (95.0, 80.0, False, False),  # float32 rounding
        (math.inf, math.inf, False, False),
        (math.inf, 30.0, True, True),
        (30.0, -math.inf, True, True),
        (-math.inf, -math.inf, False, False),
        (math.nan, math.nan, False, False),
    ],
)
def test_what_counts_as_different_and_what_as_worse(plain, served, says, short):
    assert (notable(plain, served), falls_short(plain, served)) == (says, short)


def test_the_excess_is_what_serving_adds_to_the_noise():
    gap = Gap(output="y", plain=30.0, served=20.0, allowed=1.0)
    assert gap.excess == pytest.approx(0.01 - 0.001)
    assert Gap(output="y", plain=20.0, served=30.0, allowed=1.0).excess == 0


def test_what_is_broken_as_served_only_has_no_bound():
    assert Gap(output="y", plain=20.0, served=-math.inf, allowed=1.0).excess == math.inf
    assert Gap(output="y", plain=-math.inf, served=-math.inf, allowed=1.0).excess == 0
    assert Gap(output="y", plain=20.0, served=20.0, allowed=1.0, others=0.5).excess == 0.5


BRANCHES = """
<ir_version: 10, opset_import: ["" : 21]>
g (bool c, float[8,64] x) => (float[8,32] y) <float[64,32] w1>
{
  [if] y = If (c) <
    then_branch = then () => (float[8,32] t) { [m] a = MatMul (x, w1)  [n] t = Tanh (a) },
    else_branch = other () => (float[8,32] e) { [m2] e = MatMul (x, w1) }
  >
}
"""


def test_nodes_of_bodies_are_named_by_their_paths():
    rng = np.random.default_rng(0)
    model, x = model_from_text(BRANCHES), features(rng)
    array = rng.standard_normal((64, 32)).astype(np.float32)
    array[::32] = 0
    model.graph.initializers["w1"].const_value = ir.tensor(array, name="w1")
    feeds = {"c": np.array(True), "x": x}
    done = quantize_model(model, feeds, format="weight-only")
    (found,) = departures(done.model, [feeds], threads=1)
    assert found.tensor == "y"
    assert {"if", "if/then_branch/m", "if/else_branch/m2"} <= set(found.nodes)
    assert "MatMulNBits" in {node.op_type for node in found.ran}


SHARED = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[8,64] x) => (float[8,32] y, float[8,32] z) <float[64,32] w1, float[32,32] w2, float[32,32] w3>
{ [m1] a = MatMul (x, w1)  [t1] b = Add (a, a)  [m2] y = MatMul (b, w2)  [m3] z = MatMul (b, w3) }
"""


def test_scales_that_are_found_at_run_time_do_not_hide_the_node_that_departs():
    """A single number has no variance to compare its noise with."""
    rng = np.random.default_rng(0)
    model, x = model_from_text(SHARED), features(rng)
    array = rng.standard_normal((64, 32)).astype(np.float32)
    array[::32] = 0
    model.graph.initializers["w1"].const_value = ir.tensor(array, name="w1")
    rules = [{"match": {"name": "m1"}, "format": "weight-only", "weights": "uint4,asymmetric,per-block(32)"}]
    done = quantize_model(model, {"x": x}, format="dynamic", placement="everywhere", rules=rules)
    assert "DynamicQuantizeLinear" in {node.op_type for node in done.model.graph}
    found = departures(done.model, [{"x": x}], threads=1)
    assert found[0].nodes[0] == "m1"
    assert all(math.isfinite(each.noise) for each in found)


def test_what_a_kernel_rounds_hides_no_other_fault():
    """A product of accuracy level 4 may lose 6 dB by rounding; a Softmax that rounds otherwise may not."""
    text = """
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[64,2] x, float[8,64] u) => (float[64,2] y, float[8,32] z) <float[64,32] w>
    { [s] y = Softmax (x)  [m] z = MatMul (u, w) }
    """
    rng = np.random.default_rng(1)
    model = model_from_text(text)
    feeds = {
        "x": rng.standard_normal((64, 2)).astype(np.float32) / 4,
        "u": rng.standard_normal((8, 64)).astype(np.float32),
    }
    rules = [{"match": {"name": "m"}, "format": "weight-only", "weights": "uint4,asymmetric,per-block(32)"}]
    done = quantize_model(model, feeds, placement="everywhere", rules=rules)
    gap = Served(model, open_source([feeds], signature(model)), threads=1).gap(done.model)
    assert (gap.output, gap.open, gap.rounding) == ("y", True, False)
