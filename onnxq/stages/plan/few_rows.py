"""Methods that say `full_rank` need at least as many places as features: E[x x^T] has no inverse otherwise.

With fewer, damping alone decides in the directions that no sample reached, and the codes fit the samples by heart.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from onnxq.types.statistics import TensorStatistics
from onnxq.weights import make_weight_method

_INSTEAD = "mse:importance=true"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortage:
    """A weight whose inputs were seen at fewer places (`rows`) than they have features, and its method."""

    weight: str
    method: str
    rows: int
    features: int


def shortage(weight: str, method: str, names: Sequence[str], seen: Mapping[str, TensorStatistics]) -> Shortage | None:
    """Return the shortage of rows for a weight's method, None where there is none, or where nothing was counted yet."""
    counts = [channels.count for name in names if (channels := seen[name].channels) is not None]
    if not counts or not _wants_full_rank(method):
        return None
    rows, features = sum(int(count.max(initial=0)) for count in counts), counts[0].size
    return Shortage(weight=weight, method=method, rows=rows, features=features) if rows < features else None


def instead(method: str) -> str:
    """Return the method that takes the place of one that lacks rows."""
    return (
        f"{_INSTEAD},negative_scales=true"
        if getattr(make_weight_method(method), "negative_scales", False)
        else _INSTEAD
    )


def few_rows(shortages: Collection[Shortage]) -> tuple[str, ...]:
    """Return a warning that says of all weights at once what was done and what to do; () where no rows are lacking."""
    if not shortages:
        return ()
    worst = min(shortages, key=lambda each: each.rows / each.features)
    count = "1 weight is" if len(shortages) == 1 else f"{len(shortages)} weights are"
    return (
        f"{count} quantized with {instead(worst.method)}, not {worst.method}: calibration brought "
        f"{worst.rows} rows of inputs for the {worst.features} features of '{worst.weight}', and fewer rows than "
        "features say nothing about some directions; calibrate with more samples, ten rows a feature or so",
    )


@cache
def _wants_full_rank(method: str) -> bool:
    return bool(getattr(make_weight_method(method), "full_rank", False))
