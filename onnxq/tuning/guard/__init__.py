"""guard: a loop around plan, rewrite and verify that takes back what does not pay."""

from __future__ import annotations

from onnxq.tuning.guard.run import guard

__all__ = ["guard"]
