"""Affine quantization: code = saturate(round(x / scale) + zero point), x ~ (code - zero point) * scale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.errors import ModelError
from onnxq.numerics.blocks import from_groups, group_axes, spread, to_groups
from onnxq.numerics.floats import round_to_format
from onnxq.numerics.rounding import Round, rounding
from onnxq.numerics.scales import allowed_scale
from onnxq.types.scheme import QuantParams, QuantType, Scheme

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]

_SLAB = 1 << 20  # elements of a slab, so that temporaries stay small whatever the tensor's size


def params_from_range(
    low: npt.ArrayLike, high: npt.ArrayLike, scheme: Scheme, *, min_scale: npt.ArrayLike | None = None
) -> QuantParams:
    """Return the scale and zero point that represent [low, high], widened to hold 0.

    Asymmetric (ONNX DynamicQuantizeLinear, in float32 as there): scale = (high - low) / (qmax - qmin),
    zero point = saturate(rint(qmin - low / scale)). Symmetric: scale = max(|low|, |high|) / half, the zero point is
    `scheme.middle`; half is the largest code in the restricted range (absmax / 127 for int8), and half the number of
    steps in the full one (absmax / 127.5; the largest value then saturates, half a step away from its code).
    Floating-point codes: absmax / largest code (float16, bfloat16: 1). Zero is a code exactly.

    A range without extent gets the smallest scale of its neighbours, or 1 where there is none: its codes are all the
    zero point whatever the scale, and such a scale keeps that of a bias, scale_x * scale_w, in order.

    Args:
        low: finite, of the scales' shape.
        high: finite, not below `low`, of the same shape.
        scheme: of the codes.
        min_scale: smallest scale allowed, broadcastable to the scales.
    """
    lowest = np.minimum(np.asarray(low, np.float32), np.float32(0))
    highest = np.maximum(np.asarray(high, np.float32), np.float32(0))
    scale = allowed_scale(_scale(lowest, highest, scheme), scheme.scale_type, up=True)
    live = scale[(lowest < 0) | (highest > 0)]
    dead = (lowest == 0) & (highest == 0)
    scale = np.where(dead, live.min() if live.size else np.float32(1), scale)
    if min_scale is not None:
        floor = allowed_scale(np.asarray(min_scale, np.float32), scheme.scale_type, up=True)
        scale = np.maximum(scale, np.broadcast_to(floor, scale.shape))
    return QuantParams(scheme=scheme, scale=scale, zero_point=_zero_point(lowest, scale, scheme))


def quantize(x: Array, params: QuantParams, *, round_: Round | None = None) -> Array:
    """Return the codes of `x`.

    The arithmetic is QuantizeLinear's: quotient in float32, rounding (half to even unless the scheme or `round_`
    differs), zero point added, saturation; but saturation is to `scheme.code_range`, which leaves out the smallest code
    of a narrow scheme.

    Args:
        x: any shape, finite; computed in float32.
        params: of a scheme whose granularity fits `x`.
        round_: replaces the scheme's rounding; called once, with all quotients in grouped form (see numerics.blocks).

    Returns:
        int32 codes of x's shape; of a floating-point type the codes' values as float32.
    """
    scheme = params.scheme
    groups = to_groups(x, scheme.granularity)
    scale = spread(params.scale, x.shape, scheme.granularity)
    zero_point = spread(params.zero_point, x.shape, scheme.granularity)
    if round_ is not None:
        return from_groups(_codes(groups, scale, zero_point, scheme, round_), x.shape, scheme.granularity)
    round_ = rounding(scheme.rounding)
    codes = np.empty(groups.shape, np.float32 if scheme.dtype.is_float else np.int32)
    for part in _slabs(groups):
        codes[part] = _codes(groups[part], _of(part, scale), _of(part, zero_point), scheme, round_)
    return from_groups(codes, x.shape, scheme.granularity)


def dequantize(codes: Array, params: QuantParams) -> Float32:
    """Return (code - zero point) * scale in float32, as DequantizeLinear does; of `codes`' shape."""
    scheme = params.scheme
    groups = to_groups(codes, scheme.granularity)
    scale = spread(params.scale, codes.shape, scheme.granularity)
    zero_point = spread(params.zero_point, codes.shape, scheme.granularity)
    values = np.empty(groups.shape, np.float32)
    for part in _slabs(groups):
        centred = groups[part]
        if not scheme.dtype.is_float:
            centred = centred.astype(np.int32) - _of(part, zero_point)
        values[part] = centred.astype(np.float32) * _of(part, scale)
    return from_groups(values, codes.shape, scheme.granularity)


def weight_range(weight: Array, scheme: Scheme) -> tuple[Float32, Float32]:
    """Return the lowest and highest value of each group of elements that share a scale, widened to hold 0.

    Both are float32 of the scales' shape.

    Raises:
        ModelError: a value is NaN or infinite.
    """
    groups = to_groups(weight, scheme.granularity)
    axes = group_axes(weight.shape, scheme.granularity)
    low = np.asarray(groups.min(axis=axes, initial=0), np.float32)
    high = np.asarray(groups.max(axis=axes, initial=0), np.float32)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ModelError("a weight holds NaN or infinite values; repair the model, or keep the node in float")
    return low, high


def storage_array(codes: Array, dtype: QuantType) -> Array:
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
    if scheme.symmetric:
        restricted = scheme.narrow or scheme.dtype.is_float
        half = np.float32(scheme.dtype.maximum - scheme.middle) if restricted else steps / np.float32(2)
        return np.asarray(np.maximum(-low, high) / half)
    with np.errstate(over="ignore"):
        scale = (high - low) / steps
    return np.where(np.isfinite(scale), scale, high / steps - low / steps)  # high - low may leave float32


def _zero_point(low: Float32, scale: Float32, scheme: Scheme) -> npt.NDArray[np.int32]:
    if scheme.symmetric:
        return np.full(scale.shape, scheme.middle, np.int32)
    qmin, qmax = scheme.code_range
    return np.asarray(np.rint(np.clip(np.float32(qmin) - low / scale, qmin, qmax)), np.int32)


def _codes(x: Array, scale: Float32, zero_point: npt.NDArray[np.int32], scheme: Scheme, round_: Round) -> Array:
    with np.errstate(over="ignore"):  # a quotient beyond float32 saturates
        quotient: Array = x.astype(np.float32, copy=False) / scale
    if scheme.dtype.is_float:
        return round_to_format(quotient, scheme.dtype, round_)
    qmin, qmax = scheme.code_range
    if scheme.dtype is QuantType.INT32:
        quotient = quotient.astype(np.float64)  # float32 cannot hold the limits
    whole = np.clip(round_(quotient), qmin - zero_point, qmax - zero_point)
    return np.asarray(whole.astype(np.int32) + zero_point)


def _slabs(groups: Array) -> Iterator[slice | tuple[()]]:
    """Yield slices of the first axis of about _SLAB elements."""
    if groups.ndim == 0:
        yield ()
        return
    step = max(1, _SLAB * len(groups) // max(groups.size, 1))
    for start in range(0, len(groups), step):
        yield slice(start, start + step)


def _of(part: slice | tuple[()], parameters: Array) -> Array:
    """Return the parameters of a slab."""
    return parameters[part] if parameters.ndim and len(parameters) > 1 else parameters
