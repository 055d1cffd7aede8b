"""Float types: in which a model's floats are stored and computed."""

from __future__ import annotations

from enum import StrEnum


class FloatType(StrEnum):
    """A float type of ONNX. FLOAT16: 11 bits of precision, up to 65504. BFLOAT16: 8 bits, the range of float32."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
