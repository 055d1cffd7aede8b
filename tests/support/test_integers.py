"""The model of sums that other tests go by is what this processor does."""

import numpy as np
import pytest
from onnxq.graph.text import model_from_text
from onnxq.runtime.session import run_model
from tests.support.integers import accumulated, exactly

TYPES = {"uint8": np.uint8, "int8": np.int8}
MODEL = """<ir_version: 8, opset_import: ["" : 13]>
g ({a}[5,{k}] a, {b}[{k},9] b, {a} az, {b} bz) => (int32[5,9] y) {{ y = MatMulInteger (a, b, az, bz) }}"""


def test_pairs_are_cut_off_at_16_bits_and_zero_points_are_taken_off_afterwards():
    a, b = np.array([[255, 255, 10]], np.uint8), np.array([[127], [127], [-3]], np.int8)
    assert accumulated(a, b, pairs=True).item() == 32767 - 30
    assert accumulated(a, b, pairs=False).item() == exactly(a, b).item() == 2 * 255 * 127 - 30
    # -100 * (127 + 127 - 3) - 5 * (255 + 255 + 10) + 3 * 100 * 5
    assert accumulated(a, b, 100, 5, pairs=True).item() == 32737 - 25100 - 2600 + 1500
    assert accumulated(a, -b, pairs=True).item() == -32768 + 30
    assert accumulated(a[:, [0, 2, 1]], b[[0, 2, 1]], pairs=True).item() == 255 * 127 - 30 + 255 * 127


@pytest.mark.parametrize("k", [1, 2, 7, 64, 65])
@pytest.mark.parametrize(("a", "b"), [("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8")])
def test_the_kernel_of_this_processor_computes_that(a, b, k):
    rng = np.random.default_rng(k)
    low, high = np.iinfo(TYPES[b]).min, np.iinfo(TYPES[b]).max
    feeds = {
        "a": rng.choice([np.iinfo(TYPES[a]).max, 3], (5, k)).astype(TYPES[a]),
        "b": rng.choice([low + 1, high, high, 1], (k, 9)).astype(TYPES[b]),
        "az": np.array(17, TYPES[a]),
        "bz": np.array(5, TYPES[b]),
    }
    found = run_model(model_from_text(MODEL.format(a=a, b=b, k=k)), feeds, optimize=True)["y"]
    np.testing.assert_array_equal(found, accumulated(feeds["a"], feeds["b"], feeds["az"], feeds["bz"]))
