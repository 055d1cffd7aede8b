"""Diagnosis: how much of a model is quantized, what does not and why, and what could go wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from onnxq.types.plan import Reason


class State(StrEnum):
    """Where an operator that holds or multiplies weights stands.

    QUANTIZED: already. POSSIBLE: in float, and the target has a kernel for it. FLOAT: in float, for a reason.
    """

    QUANTIZED = "quantized"
    POSSIBLE = "possible"
    FLOAT = "float"


@dataclass(frozen=True, kw_only=True, slots=True)
class Covered:
    """One operator that holds or multiplies weights.

    Attributes:
        node, op: as in plans.
        state: see there.
        reason: why it stays in float, None for other states.
        weight_bytes: of its constant weights as they are stored; one that several operators read counts with the first.
        macs: multiply-accumulates in one run; free extents count as 32.
    """

    node: str
    op: str
    state: State
    reason: Reason | None
    weight_bytes: int
    macs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Hazard:
    """Something that could cost accuracy, speed or size.

    Attributes:
        code: stable, for machines.
        text: what was found.
        advice: what to do about it.
        where: names of the nodes or tensors, all of them.
    """

    code: str
    text: str
    advice: str
    where: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What `onnxq doctor` finds.

    Attributes:
        target, format: what could be quantized was judged for these.
        operators: those that hold or multiply weights, in graph order.
        advice: reason code -> what to do about it.
        hazards: by weight.
        observed: whether the model was run on calibration data, for ranges of activations.
        warnings: of loading, preparing and observing.
    """

    target: str
    format: str
    operators: tuple[Covered, ...]
    advice: dict[str, str]
    hazards: tuple[Hazard, ...]
    observed: bool
    warnings: tuple[str, ...] = ()
