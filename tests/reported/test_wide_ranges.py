"""Reported about joined tensors: boxes up to 640 beside scores up to 1, under one scale behind the node that joins."""

import numpy as np
import pytest
from onnxq.runtime.session import run_model
from tests.support.end_to_end import normal, quantize, with_weights

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
PARTS = "b = MatMul (x, w)  r = Relu (b)  c = MatMul (x, v)  s = Sigmoid (c)"
X = {"x": normal(8, 16)}
FLOOR = 30


def model(rest, outputs):
    text = f"{HEAD} g (float[8,16] x) => ({outputs}) {{ {PARTS} {rest} }}"
    numbers = {
        "w": normal(16, 4, seed=1) * 100,
        "v": normal(16, 1, seed=2),
        "three": np.array([2, 4, 5]),
        "zero": np.array([0]),
        "last": np.array([1]),
    }
    return with_weights(text, **{name: each for name, each in numbers.items() if name in text})


def sqnr(expected, found):
    return 10 * np.log10(np.mean(np.square(expected)) / np.mean(np.square(expected - found)))


def parts_kept(before, after, name, split):
    """The dB of boxes and scores apart, with the optimizer off and as served."""
    expected = split(run_model(before, X)[name])
    for optimize in (False, True):
        found = split(run_model(after, X, optimize=optimize)[name])
        yield from (sqnr(one, other) for one, other in zip(expected, found, strict=True))


CASES = {
    "Transpose": (
        "j = Concat <axis = 1> (r, s)  y = Transpose <perm = [1, 0]> (j)",
        "float[5,8] y",
        lambda y: (y[:4], y[4:]),
        ["Concat", "Transpose"],
    ),
    "Reshape": (
        "j = Concat <axis = 1> (r, s)  k = Reshape (j, three)  y = Transpose <perm = [0, 2, 1]> (k)",
        "float[2,5,4] y",
        lambda y: (y[:, :4], y[:, 4:]),
        ["Concat", "Reshape", "Transpose"],
    ),
    "joined again": (
        "j = Concat <axis = 1> (r, s)  t = Transpose <perm = [1, 0]> (j)  u = Transpose <perm = [1, 0]> (r)"
        "  y = Concat <axis = 0> (t, u)",
        "float[9,8] y",
        lambda y: (y[:4], y[4:5], y[5:]),
        ["Concat", "Transpose", "Concat"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_rearranges_a_wide_tensor_stays_in_float(case):
    rest, outputs, split, wanted = CASES[case]
    before = model(rest, outputs)
    done = quantize(before, X, "qdq")
    assert min(parts_kept(before, done.model, "y", split)) > FLOOR
    kept = [each.op for each in done.report.plan.decisions if each.reason.code == "wide-range"]
    assert kept == wanted
    assert len([name for name in done.quantized() if "MatMul" in name]) == 2


def test_a_part_that_is_cut_out_stays_with_the_rest():
    rest = "j = Concat <axis = 1> (s, r)  p = Slice (j, zero, last, last)  t = Transpose <perm = [1, 0]> (p)"
    before = model(f"{rest}  y = Sigmoid (t)  z = Transpose <perm = [1, 0]> (j)", "float[1,8] y, float[5,8] z")
    done = quantize(before, X, "qdq")
    decided = {each.node: each.reason.code for each in done.report.plan.decisions}
    assert [code for name, code in decided.items() if "Slice" in name] == ["wide-range"]
    assert [code for name, code in decided.items() if "Transpose" in name] == ["wide-range"] * 2
    assert [code for name, code in decided.items() if "Sigmoid" in name] == ["integer-kernel"] * 2
    assert min(parts_kept(before, done.model, "y", lambda y: (y,))) > FLOOR
    assert min(parts_kept(before, done.model, "z", lambda z: (z[:1], z[1:]))) > FLOOR
