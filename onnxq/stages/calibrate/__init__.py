"""calibrate: Model, batches -> statistics per tensor. Bounded memory; the same result however samples are grouped."""

from __future__ import annotations

from onnxq.stages.calibrate.stage import calibrate
from onnxq.stages.calibrate.survey import findings, survey

__all__ = ["calibrate", "findings", "survey"]
