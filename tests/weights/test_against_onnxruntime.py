"""4-bit blocks: onnxruntime's own quantizers are the thing to beat."""

import numpy as np
import pytest
from onnxq.numerics.affine import dequantize
from onnxq.numerics.packing import unpack
from onnxq.types.scheme import PerBlock, QuantType, Scheme
from onnxq.weights import make_weight_method
from onnxruntime.capi._pybind_state import quantize_matmul_4bits
from onnxruntime.quantization.neural_compressor.weight_only import quant_tensor_k_quant_cpu


def _default(weight, size, symmetric):
    """MatMulNBitsQuantizer's default: weight (N, K), blocks along K; codes, scales and zero points by its kernel."""
    n, k = weight.shape
    packed = np.zeros((n, k // size, size // 2), np.uint8)
    scale = np.zeros((n, k // size), np.float32)
    packed_zero = np.zeros((n, -(-(k // size) // 2)), np.uint8)
    quantize_matmul_4bits(packed, np.ascontiguousarray(weight.T), scale, packed_zero, size, n, k, symmetric)
    codes = unpack(packed, 4, size).astype(np.int32)
    zero = np.int32(8) if symmetric else unpack(packed_zero, 4, k // size).astype(np.int32)[..., None]
    return codes, scale, ((codes - zero) * scale[..., None]).reshape(n, k)


def _k_quant(weight, size):
    codes, scale, zero = quant_tensor_k_quant_cpu(weight, 4, size)
    return ((codes - zero.astype(np.float64)) * scale).reshape(weight.shape)


def _ours(name, weight, scheme, options=None):
    codes, params = make_weight_method(name, options)(weight, scheme)
    return codes, params, dequantize(codes, params)


def _error(weight, values):
    return float(np.sum((values.astype(np.float64) - weight) ** 2))


def _scheme(symmetric, size):
    if symmetric:
        return Scheme(dtype=QuantType.INT4, symmetric=True, narrow=False, granularity=PerBlock(axis=1, size=size))
    return Scheme(dtype=QuantType.UINT4, symmetric=False, granularity=PerBlock(axis=1, size=size))


@pytest.fixture(params=["normal", "student", "offset"])
def weight(request):
    rng = np.random.default_rng(0)
    draw = {
        "normal": lambda: rng.normal(size=(96, 256)),
        "student": lambda: rng.standard_t(4, size=(96, 256)),
        "offset": lambda: rng.normal(size=(96, 256)) + rng.normal(size=(96, 1)),
    }
    return draw[request.param]().astype(np.float32)


@pytest.mark.parametrize("size", [16, 32, 128])
def test_rtn_asymmetric_is_its_default_code_for_code(weight, size):
    codes, scale, values = _default(weight, size, symmetric=False)
    ours, params, our_values = _ours("rtn", weight, _scheme(False, size))
    # Its quotient is a product with 1 / scale: codes may differ where that rounds to the other side of a half.
    assert np.mean(ours != codes.reshape(ours.shape)) < 1e-3
    np.testing.assert_allclose(params.scale, scale, rtol=1e-6)
    assert _error(weight, our_values) == pytest.approx(_error(weight, values), rel=1e-3)


@pytest.mark.parametrize("size", [16, 32, 128])
def test_mse_has_less_error_than_its_default_and_k_quant(weight, size):
    _, _, values = _ours("mse", weight, _scheme(False, size))
    ours = _error(weight, values)
    assert ours < 0.95 * _error(weight, _default(weight, size, symmetric=False)[2])
    assert ours < 0.95 * _error(weight, _k_quant(weight, size))


@pytest.mark.parametrize("size", [16, 32, 128])
def test_mse_symmetric_has_less_error_than_its_symmetric_form(weight, size):
    _, _, values = _ours("mse", weight, _scheme(True, size), {"negative_scales": True})
    assert _error(weight, values) < 0.95 * _error(weight, _default(weight, size, symmetric=True)[2])
