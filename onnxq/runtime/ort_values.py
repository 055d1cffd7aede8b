"""Arrays of types that numpy lacks (bfloat16, 8-bit floats, 4-bit integers), into a session and out of it.

The runtime's `run` takes and returns numpy's own types only. Its values carry any type; their bytes are read in place.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_NUMPY = frozenset(
    f"tensor({name})"
    for name in (
        *("float", "double", "float16", "bool", "string"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    )
)


def needs_ort_values(raw: Any) -> bool:
    """Return whether an input or output of a session is a tensor of a type that numpy lacks."""
    kinds = {value.type for value in (*raw.get_inputs(), *raw.get_outputs())}
    return any(kind.startswith("tensor(") and kind not in _NUMPY for kind in kinds)


def run(raw: Any, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
    """Run a session once; foreign types are those of ml_dtypes on the way in and out."""
    from onnxruntime import OrtValue

    inputs = {name: _to_value(OrtValue, value) for name, value in feeds.items()}
    return [_to_array(value) for value in raw.run_with_ort_values(list(names), inputs)]


def _to_value(ort_value: Any, value: Any) -> Any:
    import onnx_ir as ir

    array = np.ascontiguousarray(value).reshape(np.shape(value))
    if array.dtype.kind != "V":
        return ort_value.ortvalue_from_numpy(array)
    dtype = ir.DataType.from_numpy(array.dtype)
    return ort_value.ortvalue_from_numpy_with_onnx_type(array.view(f"u{array.dtype.itemsize}"), int(dtype))


def _to_array(value: Any) -> Any:
    import onnx
    import onnx_ir as ir

    if not value.is_tensor() or value.data_type() in _NUMPY:
        return value.numpy()
    dtype, shape = ir.DataType(value.element_type()), tuple(value.shape())
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return ir.TensorProtoTensor(onnx.TensorProto(data_type=int(dtype), dims=shape, raw_data=data)).numpy()
