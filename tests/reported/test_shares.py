"""Reported about shares (Softmax, Sigmoid): quantized over 0 to 1 whatever was seen, they keep no code of theirs."""

import numpy as np
import pytest
from tests.support.end_to_end import normal, quantize, with_weights

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
CALIBRATORS = ["minmax", "moving-average", "percentile", "entropy", "mse"]


def attention(keys, tail="y = MatMul (p, v)"):
    """Attention whose weights differ little: a share of `keys` is a few times 1 / keys at most."""
    return with_weights(
        f"""{HEAD} g (float[2,{keys},32] x) => (float[2,{keys},32] y) {{
            q = MatMul (x, wq)  k = MatMul (x, wk)  v = MatMul (x, wv)
            t = Transpose <perm = [0, 2, 1]> (k)  s = MatMul (q, t)  p = Softmax (s)  {tail} }}""",
        wq=normal(32, 32, seed=1, scale=0.05),
        wk=normal(32, 32, seed=2, scale=0.05),
        wv=normal(32, 32, seed=3, scale=0.2),
    )


def softmax_of(done):
    return next(entry for entry in done.report.plan.decisions if entry.op == "Softmax")


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("placement", ["fastest", "everywhere"])
@pytest.mark.parametrize("keys", [197, 512])
def test_attention_over_many_keys(form, placement, keys):
    done = quantize(attention(keys), {"x": normal(2, keys, 32)}, form, placement=placement)
    assert "MatMul_6" in done.quantized()
    assert done.at_least(32)
    assert softmax_of(done).reason.code == "few-codes"
    assert f"shares of {keys}" in softmax_of(done).reason.text


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_every_calibrator_chooses_the_range_of_shares(calibrator):
    done = quantize(attention(197), {"x": normal(2, 197, 32)}, "qdq", placement="fastest", calibrator=calibrator)
    assert done.at_least(32)
    assert float(done.report.plan.tensors["p"].params.scale) < 0.1 / 255


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_no_calibrator_cuts_off_the_few_large_shares(calibrator):
    """Nearly all are close to 0, and those that are not carry the result: entropy would cut them off at 6 dB."""
    feeds = {"x": normal(2, 197, 32, scale=2.4)}
    done = quantize(attention(197), feeds, "qdq", placement="fastest", calibrator=calibrator)
    assert float(done.report.plan.tensors["p"].params.scale) > 0.5 / 255
    assert done.at_least(20)


def test_shares_that_are_moved_before_the_product():
    moved = "r = Transpose <perm = [0, 2, 1]> (p)  y = MatMul (r, v)"
    assert quantize(attention(197, moved), {"x": normal(2, 197, 32)}, "qdq").at_least(32)


def test_shares_of_few_run_on_codes_of_zero_to_one():
    done = quantize(attention(8), {"x": normal(2, 8, 32)}, "qdq")
    assert softmax_of(done).kernel == "QLinearSoftmax"
    assert float(done.report.plan.tensors["p"].params.scale) == pytest.approx(1 / 255)
    assert done.at_least(32)


@pytest.mark.parametrize("placement", ["fastest", "everywhere"])
def test_small_probabilities_of_a_sigmoid(placement):
    """Its kernel takes any scale, so that the range that was seen is what it gets."""
    model = with_weights(
        f"""{HEAD} g (float[16,32] x) => (float[16,8] y) {{
            a = Gemm (x, w, b)  p = Sigmoid (a)  y = MatMul (p, v) }}""",
        w=normal(32, 16, seed=1, scale=0.05),
        b=np.full(16, -6, np.float32),
        v=normal(16, 8, seed=2),
    )
    done = quantize(model, {"x": normal(16, 32)}, "qdq", placement=placement)
    assert float(done.report.plan.tensors["p"].params.scale) < 0.02 / 255
    assert done.at_least(28)
