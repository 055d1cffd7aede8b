"""Products of quantized numbers in integer arithmetic, and the way back to real numbers or codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.types.scheme import QuantType

Int32 = npt.NDArray[np.int32]


def integer_product(x: npt.NDArray[Any], w: npt.NDArray[Any], x_zero: npt.ArrayLike, w_zero: npt.ArrayLike) -> Int32:
    """Return (x - x_zero) @ (w - w_zero), by the expansion that keeps the product itself between raw codes:

        sum_k (x_k - z_x)(w_k - z_w) = sum_k x_k w_k - z_x sum_k w_k - z_w sum_k x_k + K z_x z_w

    (Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
    equation 7). With constant weights the second and fourth terms are constants, and without a zero point of the
    weights the third vanishes: that one alone costs a sum over the inputs at run time. It is the arithmetic of
    MatMulInteger, and over patches of ConvInteger: int32, wrapping.

    Args:
        x: codes (..., M, K). w: codes (..., K, N).
        x_zero: zero point of x, a scalar or one a row: (..., M, 1). w_zero: of w, a scalar or one a column: (N,).
    """
    x, w = x.astype(np.int32), w.astype(np.int32)
    zero_x, zero_w = np.asarray(x_zero, np.int32), np.asarray(w_zero, np.int32)
    product = x @ w
    product -= zero_x * w.sum(axis=-2, keepdims=True, dtype=np.int32)
    product -= zero_w * x.sum(axis=-1, keepdims=True, dtype=np.int32)
    product += np.int32(x.shape[-1]) * zero_x * zero_w
    return np.asarray(product)


def requantize(
    accumulator: Int32, scale: npt.ArrayLike, out_scale: npt.ArrayLike, out_zero: npt.ArrayLike, dtype: QuantType
) -> Int32:
    """Return the codes of accumulator * scale in the output's parameters: saturate(rint(a * scale / out_scale) + zero).

    Args:
        accumulator: from `integer_product`. scale: scale_x * scale_w, broadcastable.
        out_scale, out_zero: of the output, broadcastable. dtype: integer type of the output's codes.
    """
    ratio = np.asarray(scale, np.float32) / np.asarray(out_scale, np.float32)
    whole = np.rint(accumulator.astype(np.float32) * ratio).astype(np.float64) + np.asarray(out_zero)
    return np.asarray(np.clip(whole, dtype.minimum, dtype.maximum), np.int32)
