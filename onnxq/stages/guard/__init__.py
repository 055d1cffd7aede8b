"""guard: a loop around plan, rewrite and verify that takes back what does not pay."""

from __future__ import annotations

from onnxq.stages.guard.stage import guard

__all__ = ["guard"]
