import ml_dtypes
import numpy as np
import onnx
import pytest
from onnxq.numerics.packing import pack, unpack


@pytest.mark.parametrize(("bits", "dtype"), [(4, ml_dtypes.uint4), (2, ml_dtypes.uint2)])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 32])
def test_the_layout_is_that_of_onnx_tensors(bits, dtype, count):
    codes = np.random.default_rng(count).integers(0, 1 << bits, count)
    tensor = onnx.numpy_helper.from_array(codes.astype(dtype))
    assert pack(codes, bits).tobytes() == tensor.raw_data


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shape", [(5,), (3, 9), (2, 3, 32), (2, 0)])
def test_unpacking_gives_the_codes_back(bits, shape):
    codes = np.random.default_rng(0).integers(0, 1 << bits, shape)
    packed = pack(codes, bits)
    assert packed.shape == (*shape[:-1], -(-shape[-1] * bits // 8))
    np.testing.assert_array_equal(unpack(packed, bits, shape[-1]), codes)


def test_rows_are_padded_with_the_fill_code():
    assert pack(np.array([[1], [2]]), 4, fill=8).tolist() == [[0x81], [0x82]]
    assert pack(np.array([3]), 2, fill=2).tolist() == [0b10101011]
