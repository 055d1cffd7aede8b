"""Affine quantization: code = saturate(round(x / scale) + zero point), x ~ (code - zero point) * scale."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from onnxq.numerics.blocks import from_groups, group_axes, spread, to_groups
from onnxq.numerics.floats import round_to_format
from onnxq.numerics.rounding import Round, rounding
from onnxq.types.scheme import QuantParams, QuantType, Scheme

Float32 = npt.NDArray[np.float32]

_SMALLEST = np.finfo(np.float32).smallest_normal


def params_from_range(
    low: npt.ArrayLike, high: npt.ArrayLike, scheme: Scheme, *, min_scale: npt.ArrayLike | None = None
) -> QuantParams:
    """Return the scale and zero point that represent [low, high], widened to hold 0.

    Asymmetric (ONNX DynamicQuantizeLinear, in float32 as there): scale = (high - low) / (qmax - qmin),
    zero point = saturate(rint(qmin - low / scale)). Symmetric: scale = max(|low|, |high|) / ((qmax - qmin) / 2), which
    is absmax / 127 for narrow and absmax / 127.5 for full int8; the zero point is 0, for unsigned types the middle
    code. Floating-point codes: absmax / largest code (float16, bfloat16: 1). Zero is a code exactly.

    A range without extent gets the smallest scale of its neighbours, or 1 where there is none: its codes are all the
    zero point whatever the scale, and a scale like its neighbours' keeps a bias on scale_x * scale_w in order. No
    scale is subnormal.

    Args:
        low, high: finite, low <= high, of the scales' shape.
        scheme: what is wanted.
        min_scale: smallest scale allowed, broadcastable to the scales.
    """
    low = np.minimum(np.asarray(low, np.float32), np.float32(0))
    high = np.maximum(np.asarray(high, np.float32), np.float32(0))
    scale = _scale(low, high, scheme)
    if min_scale is not None:
        scale = np.maximum(scale, np.broadcast_to(np.asarray(min_scale, np.float32), scale.shape))
    if scheme.power_of_two:
        scale = power_of_two(scale)
    return QuantParams(scheme=scheme, scale=scale, zero_point=zero_point_of(low, scale, scheme))


def zero_point_of(low: Float32, scale: Float32, scheme: Scheme) -> npt.NDArray[np.int32]:
    """Return the zero point that puts `low` (<= 0) at the lowest code, or the fixed one of a symmetric scheme."""
    qmin, qmax = scheme.code_range
    if scheme.symmetric:
        middle = 0 if scheme.dtype.signed else (scheme.dtype.maximum + 1) // 2
        return np.full(np.shape(scale), middle, np.int32)
    return np.asarray(np.rint(np.clip(np.float32(qmin) - low / scale, qmin, qmax)), np.int32)


def power_of_two(scale: Float32) -> Float32:
    """Round scales up to powers of two (logarithmic scales: scaling is a shift)."""
    fraction, exponent = np.frexp(scale)
    exponent = np.minimum(np.where(fraction == 0.5, exponent - 1, exponent), 127)
    return np.asarray(np.ldexp(np.float32(1), exponent), np.float32)


def quantize(x: npt.NDArray[Any], params: QuantParams, *, round_: Round | None = None) -> npt.NDArray[Any]:
    """Return the codes of `x`.

    The arithmetic is QuantizeLinear's: quotient in float32, rounding (half to even unless the scheme or `round_` says
    otherwise), zero point added, saturation; but saturation is to `scheme.code_range`, which leaves out the smallest
    code of a narrow scheme.

    Args:
        x: any shape, finite; computed in float32.
        params: of a scheme whose granularity fits `x`.
        round_: replaces the scheme's rounding.

    Returns:
        int32 codes of x's shape; of a floating-point type the code's values as float32.
    """
    scheme, shape = params.scheme, x.shape
    round_ = round_ or rounding(scheme.rounding)
    groups = to_groups(x.astype(np.float32, copy=False), scheme.granularity)
    scale = spread(params.scale, shape, scheme.granularity)
    with np.errstate(over="ignore"):  # a quotient beyond float32 saturates
        quotient: npt.NDArray[Any] = groups / scale
    if scheme.dtype.is_float:
        return from_groups(round_to_format(quotient, scheme.dtype, round_), shape, scheme.granularity)
    zero_point = spread(params.zero_point, shape, scheme.granularity)
    qmin, qmax = scheme.code_range
    if scheme.dtype is QuantType.INT32:
        quotient = quotient.astype(np.float64)  # float32 cannot hold the limits
    whole = np.clip(round_(quotient), qmin - zero_point, qmax - zero_point)
    codes = whole.astype(np.int32) + zero_point
    return from_groups(codes, shape, scheme.granularity)


def dequantize(codes: npt.NDArray[Any], params: QuantParams) -> Float32:
    """Return (code - zero point) * scale in float32, as DequantizeLinear does."""
    granularity, shape = params.scheme.granularity, codes.shape
    groups = to_groups(codes, granularity)
    if not params.scheme.dtype.is_float:
        groups = groups.astype(np.int32, copy=False) - spread(params.zero_point, shape, granularity)
    values = groups.astype(np.float32, copy=False) * spread(params.scale, shape, granularity)
    return from_groups(cast(Float32, np.asarray(values)), shape, granularity)


def weight_range(weight: npt.NDArray[Any], scheme: Scheme) -> tuple[Float32, Float32]:
    """Return the lowest and highest value of each group of elements that share a scale, and at any rate 0.

    Both are float32 of the scales' shape.
    """
    groups = to_groups(weight, scheme.granularity)
    axes = group_axes(weight.shape, scheme.granularity)
    low = np.asarray(groups.min(axis=axes, initial=0), np.float32)
    return low, np.asarray(groups.max(axis=axes, initial=0), np.float32)


def storage_array(codes: npt.NDArray[Any], dtype: QuantType) -> npt.NDArray[Any]:
    """Return codes in the numpy or ml_dtypes type that holds them in a model; int3 is stored as int4."""
    return codes.astype(storage_dtype(dtype))


def storage_dtype(dtype: QuantType) -> np.dtype[Any]:
    """Return the numpy or ml_dtypes type that holds codes of `dtype` in a model."""
    import ml_dtypes

    name = {"int3": "int4", "float4e2m1": "float4_e2m1fn"}.get(dtype.value, dtype.value).replace("float8e", "float8_e")
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def _scale(low: Float32, high: Float32, scheme: Scheme) -> Float32:
    if scheme.dtype in (QuantType.FLOAT16, QuantType.BFLOAT16):
        return np.ones(low.shape, np.float32)
    qmin, qmax = scheme.code_range
    steps = np.float32(qmax - qmin)
    with np.errstate(over="ignore"):
        if scheme.symmetric:
            half = np.float32(qmax) if scheme.dtype.is_float or scheme.narrow else steps / np.float32(2)
            if not scheme.dtype.signed:
                half = np.float32(scheme.dtype.maximum // 2)
            scale = np.maximum(-low, high) / half
        else:
            scale = (high - low) / steps
            scale = np.where(np.isfinite(scale), scale, high / steps - low / steps)  # high - low overflowed
    dead = (low == 0) & (high == 0)
    scale = np.maximum(scale, _SMALLEST)
    live = scale[~dead]
    return np.asarray(np.where(dead, live.min() if live.size else np.float32(1), scale), np.float32)
