"""Guarding: what a guard measured, tried and found; a part of the report."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What came of a guard.

    KEPT: the quantized model, with fewer quantized nodes where there are steps. FLOAT: nothing was gained; the result
    is the float model. SLOWER: the quantized model, though it takes longer, since size is preferred.
    """

    KEPT = "kept"
    FLOAT = "float"
    SLOWER = "slower"


@dataclass(frozen=True, kw_only=True, slots=True)
class Race:
    """Both models timed in turns at one thread count.

    Attributes:
        threads: intra-op threads, 0 for all cores.
        float_ms, quantized_ms: fastest run, milliseconds.
        speedup: float_ms / quantized_ms.
        runs: of each model.
        noise: relative difference that could be chance: smaller ones decide nothing.
    """

    threads: int
    float_ms: float
    quantized_ms: float
    speedup: float
    noise: float
    runs: int

    @property
    def slower(self) -> bool:
        """Whether the quantized model takes longer, beyond chance."""
        return self.speedup < 1 - self.noise

    @property
    def faster(self) -> bool:
        """Whether the quantized model is done earlier, beyond chance."""
        return self.speedup > 1 + self.noise


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardStep:
    """Nodes that a guard put back in float or gave another form, or tried to.

    Attributes:
        why: "unfused", "error", "slower" or "kernel-fault".
        nodes: their names.
        text: figures.
        taken: whether the result has them so; False: that was tried, and gained nothing.
    """

    why: str
    nodes: tuple[str, ...]
    text: str
    taken: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Guarding:
    """What a guard did.

    Attributes:
        verdict, message: the outcome, and why in words.
        seconds: what it took.
        races: of the result, at each thread count.
        steps: in order.
    """

    verdict: Verdict
    message: str
    seconds: float
    races: tuple[Race, ...] = ()
    steps: tuple[GuardStep, ...] = ()
