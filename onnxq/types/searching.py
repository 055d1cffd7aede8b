"""Searching: every model that the search tried, and which it took; a part of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxq.types.plain_data import Real
from onnxq.types.sensitivity import worst_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Tried:
    """One model that was made and run.

    Attributes:
        ways: of each unit, an index into the search's ways; -1 for float.
        bytes: of its tensors.
        latency_ms: fastest run.
        speedup: the float model's fastest run by it, in turns.
        noise: of that, what may be chance. None where time was not measured.
        outputs: dB of each output as served.
        metric: what it scores, None where nothing is scored.
        shortfall: in words how it misses the budget, None if it does not.
        excess: how far beyond it is, at most 0 within; see `onnxq.tuning.budget`.
    """

    ways: tuple[int, ...]
    bytes: int
    outputs: Mapping[str, Real]
    metric: Real | None = None
    latency_ms: float | None = None
    speedup: Real | None = None
    noise: Real | None = None
    shortfall: str | None = None
    excess: Real = 0.0

    @property
    def sqnr(self) -> float:
        """dB of the worst output; -inf for NaN."""
        return worst_of(self.outputs)


@dataclass(frozen=True, kw_only=True, slots=True)
class IsolatedChoice:
    """A unit that alone goes a way: its noise over the signal of the worst output, in power; bytes and time it saves.

    The time, in shares of the float model's, is what profiles of whole models say.
    """

    unit: int
    way: int
    noise: float
    saved: int
    faster: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Searching:
    """What a search did.

    Attributes:
        budget: in words.
        prefer: "speed" or "size".
        ways: by name.
        units: of nodes that go one way together.
        alone: what each does alone, each way that it can go.
        tried: whole models, in order.
        chosen: index of the one that was taken, None where none is within the budget.
        nearest: index of the one that comes nearest to the budget.
        metric, float_metric: its name and what the float model scores, None where nothing is scored.
        message: the outcome, in words.
        float_bytes: of the float model.
        seconds: it took, this time.
        resumed: how many measurements an interrupted search had left.
    """

    budget: str
    prefer: str
    ways: tuple[str, ...]
    units: tuple[tuple[str, ...], ...]
    alone: tuple[IsolatedChoice, ...]
    tried: tuple[Tried, ...]
    chosen: int | None
    nearest: int | None
    message: str
    float_bytes: int
    seconds: float
    metric: str | None = None
    float_metric: float | None = None
    resumed: int = 0
