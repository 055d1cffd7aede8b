"""doctor: Model -> Diagnosis. How much of it runs on codes, what does not and why, and what could go wrong."""

from __future__ import annotations

from onnxq.stages.doctor.coverage import holds_codes, planned
from onnxq.stages.doctor.stage import diagnose, look

__all__ = ["diagnose", "holds_codes", "look", "planned"]
