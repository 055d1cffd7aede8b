"""search: a loop above the stages that looks for the best plan within a budget."""

from __future__ import annotations

from onnxq.tuning.search.run import Search

__all__ = ["Search"]
