"""Weights that have one scale though one a channel is wanted, and constants that stay in float: both are told truly."""

import numpy as np
import onnx_ir as ir
import pytest
from onnxq.graph.text import model_from_text
from tests.support.quantizing import quantize_model, quantize_text, text

STACK = text("y = MatMul (x, w)", "float[2,16,32] x", "float[2,16,24] y", "float[2,32,24] w")


def stack() -> ir.Model:
    """Return a product with a stack of matrices whose columns have very different sizes."""
    model = model_from_text(STACK)
    weight = np.random.default_rng(3).standard_normal((2, 32, 24)) * np.geomspace(1e-3, 1, 24)
    model.graph.initializers["w"].const_value = ir.tensor(weight.astype(np.float32), name="w")
    return model


@pytest.mark.parametrize("weights", [{}, {"weights": "per-channel"}])
def test_one_scale_for_a_stack_of_matrices_is_told(weights):
    plan = quantize_model(stack(), format="qdq", **weights).plan
    assert plan.tensors["w"].scheme.granularity.kind == "per-tensor"
    assert "one scale for all" in plan.tensors["w"].reason
    (warning,) = plan.warnings
    assert "'MatMul_0'" in warning
    assert "format qoperator does" in warning


def test_the_format_that_it_points_to_has_a_scale_for_each_channel():
    """Every column as well as the others: with one scale for all the smallest are gone."""
    coarse, fine = (quantize_model(stack(), format=form) for form in ("qdq", "qoperator"))
    assert fine.plan.tensors["w"].scheme.granularity.kind == "per-channel"
    assert not fine.plan.warnings
    errors = {}
    for name, done in (("coarse", coarse), ("fine", fine)):
        for optimize in (False, True):
            errors[name, optimize] = worst_column(done, optimize=optimize)
    assert min(errors["fine", optimize] for optimize in (False, True)) > 30
    assert max(errors["coarse", optimize] for optimize in (False, True)) < 10


def worst_column(done, *, optimize: bool) -> float:
    """Return the SQNR in dB of the worst column, against numpy in float64."""
    from onnxq.runtime.session import run_model

    weight = done.float_model.graph.initializers["w"].const_value.numpy().astype(np.float64)
    expected = done.feeds["x"].astype(np.float64) @ weight
    found = run_model(done.model, dict(done.feeds), optimize=optimize)["y"]
    return float((10 * np.log10((expected**2).sum((0, 1)) / ((expected - found) ** 2).sum((0, 1)))).min())


@pytest.mark.parametrize("weights", ["per-tensor", "int8"])
def test_nothing_is_said_where_nothing_was_lost(weights):
    matrix = text("y = MatMul (x, w)", "float[2,16,32] x", "float[2,16,24] y", "float[32,24] w")
    assert not quantize_text(matrix if weights == "int8" else STACK, weights=weights).plan.warnings


TABLE = "t = Gather (w, i) y = MatMul (t, v)", "int64[2] i", "float[2,64] y"


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_a_table_that_stays_in_float_says_why(form):
    """A table of other rows is quantized in this very format: that formats for weights alone do that was untrue."""
    feeds = {"i": np.int64([0, 1])}
    small = quantize_text(text(*TABLE, "float[32,64] w, float[64,64] v"), feeds, format=form)
    large = quantize_text(text(*TABLE, "float[640,64] w, float[64,64] v"), feeds, format=form)
    assert large.decision("Gather_0").action == "quantize"
    reason = small.decision("Gather_0").reason
    assert reason.code == "constant"
    assert "a table of fewer than 2 axes or 4096 elements is not worth it" in reason.text


def test_constants_that_are_cut_say_that_lookups_are_quantized():
    cut = "s = Slice (w, a, e) y = MatMul (s, v)"
    model = text(cut, "int64[1] e", "float[N,64] y", "float[640,64] w, float[64,64] v, int64[1] a = {0}")
    done = quantize_text(model, {"e": np.int64([5])})
    assert "only rows that a Gather picks are looked up as codes" in done.decision("Slice_0").reason.text
