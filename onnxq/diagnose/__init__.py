"""doctor: Model -> Diagnosis. How much of it is quantized, what stays in float and why, and what could go wrong."""

from __future__ import annotations

from onnxq.diagnose.coverage import holds_codes, planned
from onnxq.diagnose.doctor import diagnose, look

__all__ = ["diagnose", "holds_codes", "look", "planned"]
