"""onnxq: quantizes ONNX models for onnxruntime. Decisions are data; models are judged as served."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from onnxq.api import benchmark, calibrate, compare, doctor, inspect, plan, quantize, sensitivity, simulate, verify
    from onnxq.types.plan import Plan
    from onnxq.types.recipe import Recipe
    from onnxq.types.report import Report
    from onnxq.types.statistics import Statistics

_HOME = {
    "benchmark": "onnxq.api",
    "calibrate": "onnxq.api",
    "compare": "onnxq.api",
    "doctor": "onnxq.api",
    "inspect": "onnxq.api",
    "plan": "onnxq.api",
    "quantize": "onnxq.api",
    "sensitivity": "onnxq.api",
    "simulate": "onnxq.api",
    "verify": "onnxq.api",
    "Plan": "onnxq.types.plan",
    "Recipe": "onnxq.types.recipe",
    "Report": "onnxq.types.report",
    "Statistics": "onnxq.types.statistics",
}

__all__ = [
    "Plan",
    "Recipe",
    "Report",
    "Statistics",
    "__version__",
    "benchmark",
    "calibrate",
    "compare",
    "doctor",
    "errors",
    "inspect",
    "plan",
    "quantize",
    "sensitivity",
    "simulate",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that `import onnxq` stays fast."""
    if name == "errors":
        return importlib.import_module("onnxq.errors")
    if name not in _HOME:
        raise AttributeError(f"module 'onnxq' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
