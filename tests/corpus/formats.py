"""The formats that every graph goes through, with the least that is asked of the result in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class FormatCase:
    """One way to quantize.

    Attributes:
        name: for tables. options: keyword arguments of `onnxq.quantize`.
        floor: dB below which an output of a quantized graph counts as wrong. The graphs are tiny and their data random:
            the floor tells a wrong scale, axis or zero point from honest rounding, no more.
    """

    name: str
    options: Mapping[str, Any]
    floor: float


FORMATS = (
    FormatCase(name="qdq", options={"format": "qdq", "placement": "everywhere"}, floor=20),
    FormatCase(
        name="qdq-int8",
        options={"format": "qdq", "placement": "everywhere", "activations": "int8,symmetric", "weights": "per-tensor"},
        floor=20,
    ),
    FormatCase(name="qoperator", options={"format": "qoperator", "placement": "everywhere"}, floor=20),
    FormatCase(name="dynamic", options={"format": "dynamic", "placement": "everywhere"}, floor=20),
    FormatCase(name="int8", options={"format": "weight-only", "weights": "int8,per-channel"}, floor=25),
    FormatCase(name="int4", options={"format": "weight-only"}, floor=8),
    FormatCase(name="codebook", options={"format": "weight-only", "weights": "codebook(4)"}, floor=8),
    FormatCase(name="float16", options={"recipe": "fp16"}, floor=40),
)
