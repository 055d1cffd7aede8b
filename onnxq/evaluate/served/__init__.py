"""served: where a model, as served, computes something else than its graph says, and what is known to be the cause."""

from __future__ import annotations

from onnxq.evaluate.served.as_written import as_written
from onnxq.evaluate.served.causes import CAUSES, UNKNOWN, Cause, Ran, cause_of, ran_at, why, why_served_differs
from onnxq.evaluate.served.departures import Departure, departures, largest
from onnxq.evaluate.served.gaps import Gap, Served, falls_short, notable

__all__ = [
    "CAUSES",
    "UNKNOWN",
    "Cause",
    "Departure",
    "Gap",
    "Ran",
    "Served",
    "as_written",
    "cause_of",
    "departures",
    "falls_short",
    "largest",
    "notable",
    "ran_at",
    "why",
    "why_served_differs",
]
