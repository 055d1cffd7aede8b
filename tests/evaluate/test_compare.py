import math
from pathlib import Path

import numpy as np
import pytest
from onnxq.data import open_source, signature
from onnxq.errors import ModelError
from onnxq.evaluate.compare import compare
from onnxq.files.pictures import comparison_picture
from onnxq.graph.text import model_from_text
from tests.support.quantizing import quantize_text

NET = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[2,4,8,8] x) => (float[2,4,8,8] y)
<float[4,4,3,3] w, float[4,4,3,3] v>
{ [c] a = Conv <pads = [1,1,1,1]> (x, w)  [r] b = Relu (a)  [d] e = Conv <pads = [1,1,1,1]> (b, v)  [t] y = Tanh (e) }
"""


@pytest.fixture(scope="module")
def done():
    return quantize_text(NET)


def run(done, quantized=None, **options):
    source = open_source([dict(done.feeds)], signature(done.float_model))
    return compare(done.float_model, quantized or done.model, source, **options)


def test_tensors_are_compared_as_what_follows_reads_them(done):
    """Against sums in numpy: b represents its dequantized codes."""
    found = run(done)
    by_name = {entry.tensor: entry for entry in found.tensors}
    assert set(by_name) == {"a", "b", "e", "y"}
    from onnxq.runtime.session import open_session

    x = open_session(done.float_model, optimize=False, outputs=["b"]).run(done.feeds)["b"].astype(np.float64)
    y = open_session(done.model, optimize=False, outputs=["b/dequantized"]).run(done.feeds)["b/dequantized"]
    assert by_name["b"].sqnr_plain == pytest.approx(10 * np.log10((x**2).sum() / ((x - y) ** 2).sum()))
    assert by_name["b"].max_abs == pytest.approx(np.abs(x - y).max())
    assert by_name["b"].node == "r"


def test_the_worst_comes_first_and_its_values_are_counted(done):
    found = run(done, worst=2)
    errors = [entry.sqnr_plain for entry in found.tensors]
    assert errors == sorted(errors)
    assert [entry.spread is not None for entry in found.tensors] == [True, True, False, False]
    spread = found.tensors[0].spread
    assert sum(spread.float_counts) == sum(spread.quantized_counts) == 2 * 4 * 8 * 8
    assert len(spread.edges) == len(spread.float_counts) + 1
    assert comparison_picture(found, Path("x.png")).startswith(b"\x89PNG")


def test_a_model_is_equal_to_itself_and_what_is_gone_is_named(done):
    same = run(done, done.float_model)
    assert all(math.isinf(entry.sqnr_plain) for entry in same.tensors)
    without = model_from_text(NET.replace("[r] b = Relu (a)", "[r] bb = Relu (a)").replace("(b, v)", "(bb, v)"))
    for name, value in done.float_model.graph.initializers.items():
        without.graph.initializers[name].const_value = value.const_value
    assert run(done, without).unmatched == ("b",)


def test_models_with_other_outputs_are_refused_by_name(done):
    other = model_from_text(NET.replace("(float[2,4,8,8] y)", "(float[2,4,8,8] z)").replace("[t] y", "[t] z"))
    with pytest.raises(ModelError, match=r"output 'y' is missing in one, which has 'z'"):
        run(done, other)
