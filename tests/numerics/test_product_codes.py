"""Runs of weights as codes, products as look-ups: against brute force, and as onnxruntime decodes them."""

import numpy as np
import onnxruntime
import pytest
from onnx import parser
from onnxq.errors import RecipeError
from onnxq.numerics.product_codes import nearest, nearest_means, product_quantize

RANDOM = np.random.default_rng(4)


def run(text: str, feeds: dict[str, np.ndarray], constants: dict[str, np.ndarray]) -> np.ndarray:
    from onnx import numpy_helper

    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)[0]


def test_nearest_is_nearest() -> None:
    points, means = RANDOM.normal(size=(50, 3)).astype(np.float32), RANDOM.normal(size=(7, 3)).astype(np.float32)
    distances = np.square(points[:, None] - means[None]).sum(axis=-1)
    np.testing.assert_array_equal(nearest(points, means), distances.argmin(axis=1))


def test_means_find_what_is_there_and_leave_none_unused() -> None:
    centers = RANDOM.normal(size=(8, 4)).astype(np.float32) * 10
    points = (centers[RANDOM.integers(8, size=400)] + RANDOM.normal(size=(400, 4)) * 0.01).astype(np.float32)
    means = nearest_means(points, 8)
    assert np.abs(np.sort(means, axis=0) - np.sort(centers, axis=0)).max() < 0.05
    assert len(set(nearest(points, means).tolist())) == 8
    np.testing.assert_array_equal(means, nearest_means(points, 8))
    assert np.isfinite(nearest_means(np.zeros((5, 2), np.float32), 4)).all()


def test_two_bits_a_weight_in_runs_beat_two_bits_a_weight_alone() -> None:
    weight = RANDOM.normal(size=(64, 96)).astype(np.float32)
    whole = product_quantize(weight, length=4, bits=8)
    alone = product_quantize(weight, length=1, bits=2)
    assert whole.codes.shape == (16, 96)
    assert whole.table.shape == (256, 4)
    errors = [float(np.square(made.decoded() - weight).mean()) for made in (whole, alone)]
    assert errors[0] < 0.9 * errors[1]


def test_importance_serves_the_rows_that_count() -> None:
    weight, importance = RANDOM.normal(size=(32, 64)).astype(np.float32), np.ones(32, np.float32)
    importance[:4] = 100
    errors = [
        np.square(product_quantize(weight, length=4, bits=5, importance=given).decoded() - weight)[:4].mean()
        for given in (None, importance)
    ]
    assert errors[1] < 0.7 * errors[0]


def test_the_runtime_decodes_the_same_with_gather() -> None:
    weight, x = RANDOM.normal(size=(32, 8)).astype(np.float32), RANDOM.normal(size=(5, 32)).astype(np.float32)
    made = product_quantize(weight, length=4, bits=4)
    text = """
<ir_version: 10, opset_import: ["" : 21]>
decoded (float[5, 32] x) => (float[5, 8] y) {
    index = Cast <to = 6> (codes)
    runs = Gather (table, index)
    turned = Transpose <perm = [0, 2, 1]> (runs)
    w = Reshape (turned, shape)
    y = MatMul (x, w)
}
"""
    constants = {"codes": made.codes, "table": made.table, "shape": np.array([32, 8])}
    np.testing.assert_allclose(run(text, {"x": x}, constants), x @ made.decoded(), rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    weight = np.zeros((10, 4), np.float32)
    with pytest.raises(RecipeError, match="runs of 4 features"):
        product_quantize(weight, length=4)
