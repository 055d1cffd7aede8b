"""Sensitivity: what each layer, and each tensor, does to the outputs when it alone is quantized."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxq.types.plain_data import Real


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """A model of which one part is quantized, against the float model.

    Attributes:
        nodes: that are quantized.
        ops: their operators.
        way: how: a format, or a way of a search.
        outputs: dB of each output as served.
        metric: what it scores, None where there is none.
        saved: bytes by which the model is smaller.
    """

    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    way: str
    outputs: Mapping[str, Real]
    metric: Real | None = None
    saved: int = 0

    @property
    def sqnr(self) -> float:
        """dB of the worst output; -inf for NaN."""
        return worst_of(self.outputs)


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorEffect:
    """A float model in which one tensor alone is rounded to the values of its codes.

    Attributes:
        tensor: its name in the plan.
        role: activation or weight.
        scheme: in words.
        nodes: those that read or make it.
        outputs: dB of each output.
        metric: as of Effect.
    """

    tensor: str
    role: str
    scheme: str
    nodes: tuple[str, ...]
    outputs: Mapping[str, Real]
    metric: Real | None = None

    @property
    def sqnr(self) -> float:
        """dB of the worst output; -inf for NaN."""
        return worst_of(self.outputs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """What each part does alone.

    Attributes:
        units: layers, worst first.
        tensors: worst first.
        whole: the model with all of them quantized.
        metric: its name, None where there is none.
        float_metric: what the float model scores.
        samples: that outputs were compared on, at most.
        data: where they came from.
        seconds: it took.
        warnings: what to mind.
    """

    units: tuple[Effect, ...]
    tensors: tuple[TensorEffect, ...]
    whole: Effect
    metric: str | None = None
    float_metric: float | None = None
    samples: int = 0
    data: str = ""
    seconds: float = 0.0
    warnings: tuple[str, ...] = field(default=())


def worst_of(outputs: Mapping[str, float]) -> float:
    """Return the lowest of some outputs' dB; NaN counts as -inf."""
    return min((-math.inf if math.isnan(value) else value for value in outputs.values()), default=math.inf)
