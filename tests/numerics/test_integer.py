import numpy as np
import pytest
from onnxq.numerics.affine import dequantize, params_from_range, quantize, weight_range
from onnxq.numerics.integer import integer_product, requantize
from onnxq.types.scheme import PerChannel, PerTensor, PerToken, QuantType, Scheme


@pytest.mark.parametrize("x_symmetric", [True, False])
@pytest.mark.parametrize("w_symmetric", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
def test_folded_corrections_equal_the_dequantized_product(x_symmetric, w_symmetric, per_channel):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(5, 64)) + 0.7).astype(np.float32)
    w = (rng.normal(size=(64, 9)) - 0.3).astype(np.float32)
    of_x, of_w = (PerToken(), PerChannel(axis=1)) if per_channel else (PerTensor(), PerTensor())
    x_kind = Scheme(dtype=QuantType.UINT8, symmetric=x_symmetric, granularity=of_x)
    w_kind = Scheme(dtype=QuantType.INT8, symmetric=w_symmetric, granularity=of_w)
    x_params = params_from_range(*weight_range(x, x_kind), x_kind)
    w_params = params_from_range(*weight_range(w, w_kind), w_kind)
    x_codes, w_codes = quantize(x, x_params), quantize(w, w_params)

    product = integer_product(
        x_codes.astype(np.uint8), w_codes.astype(np.int8), x_params.zero_point, w_params.zero_point
    )
    ours = product * (x_params.scale.astype(np.float64) * w_params.scale)

    expected = dequantize(x_codes, x_params).astype(np.float64) @ dequantize(w_codes, w_params)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6 * np.abs(x).max() * np.abs(w).max() * 64)
    assert w_symmetric or np.any(w_params.zero_point != 0)
    assert x_symmetric or np.any(x_params.zero_point != 128)


def test_the_product_is_exact_where_the_sum_of_raw_codes_leaves_16_bits():
    x = np.full((1, 4000), 255, np.uint8)
    w = np.full((4000, 1), -128, np.int8)
    assert integer_product(x, w, 3, -5).tolist() == [[4000 * (255 - 3) * (-128 + 5)]]


def test_requantizing_rounds_half_to_even_and_saturates():
    accumulator = np.int32([[5, 15, -5, 100_000, -100_000]])
    codes = requantize(accumulator, 0.5, 5.0, 10, QuantType.UINT8)
    # 0.5 -> 0, 1.5 -> 2, -0.5 -> 0, then + 10
    assert codes.tolist() == [[10, 12, 10, 255, 0]]
