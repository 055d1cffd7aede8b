"""Faults of onnxruntime: what some versions compute wrongly or do not load, and what is written instead.

One file a fault, registered by folder. A fault says which nodes meet it, before they are written (`meets_request`, for
`avoid`, which the planner calls) and in an existing model (`meets_node`, for doctor and verify). Its `cases` prove
within milliseconds whether the installed runtime has it (`onnxq.evaluate.faults`); where nothing can be run, the
versions and processors that it declares decide.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from onnxq.registry import Registry
from onnxq.types.accuracy import ROUNDS
from onnxq.types.plan import Detour
from onnxq.types.scheme import Scheme

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from onnxq.targets import Row


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WriteRequest:
    """How one node is to be written.

    Attributes:
        node: in float.
        opset: of the model.
        row: the kernel.
        activations: their scheme.
        weights: their scheme.
        slots: of the weights.
        portable: whether operators of the ONNX standard alone may be used.
        accuracy_level: of MatMulNBits.
        lowest_code: returns the lowest code of imported weights; None where codes are still to be chosen.
        detours: how it is written differently from usual.
        notes: for each avoided fault, what is done instead and why, in words.
    """

    node: ir.Node
    opset: int
    row: Row
    activations: Scheme
    weights: Scheme
    slots: tuple[int, ...] = ()
    portable: bool = False
    accuracy_level: int = ROUNDS
    lowest_code: Callable[[], int] | None = None
    detours: tuple[Detour, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Instead:
    """One way around a fault.

    Attributes:
        text: in words.
        detour: another way to write the node, None for the usual one.
        symmetric: of the weights' scheme, None to leave it.
        narrow: of the weights' scheme, None to leave it.
        accuracy_level: of MatMulNBits, None to leave it.
        portable: whether it is in operators of the ONNX standard.
    """

    text: str
    detour: Detour | None = None
    symmetric: bool | None = None
    narrow: bool | None = None
    accuracy_level: int | None = None
    portable: bool = True

    def note(self, fault: Fault) -> str:
        """Return in words what is done instead, and why."""
        return f"{self.text}, since {fault}"

    def applied(self, written: WriteRequest, fault: Fault) -> WriteRequest:
        """Return what is written this way."""
        parts = {name: getattr(self, name) for name in ("symmetric", "narrow") if getattr(self, name) is not None}
        return replace(
            written,
            weights=replace(written.weights, **parts),
            accuracy_level=self.accuracy_level or written.accuracy_level,
            lowest_code=None if parts else written.lowest_code,
            detours=written.detours if self.detour is None else (*written.detours, self.detour),
            notes=(*written.notes, self.note(fault)),
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Case:
    """A tiny model that shows a fault.

    Attributes:
        text: of the model.
        feeds: its inputs.
        right: its correct first output; None: it must load and run.
        error: how far the largest element may be off, as a share of the largest right one.
    """

    text: str
    feeds: Mapping[str, np.ndarray]
    right: np.ndarray | None = None
    error: float = 0.02


def _never(*_: object) -> bool:
    return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Something that onnxruntime's CPU execution provider does wrongly.

    Attributes:
        name: unique.
        summary: what goes wrong, for the user.
        first: first version of onnxruntime known to have it, in full; empty: no release that was tried has it; it was
            reported, and counts where its cases show it.
        last: last version known to have it; empty: the newest that was tried has it.
        targets: the CPU targets whose processors have it, empty for all.
        meets_request: returns whether a node meets it as it would be written.
        meets_node: returns whether a node of a model, of an opset, meets it.
        cases: models that show it; None: it cannot be tried safely, and `first`, `last` and `targets` decide.
        instead: ways around it, best first; empty: the next kernel, or float.
        slight: whether it costs so little that it is only reported where outputs differ.
        advice: what to do about a model that has such nodes.
        reported: where, a URL or "found here".
    """

    name: str
    summary: str
    first: str = ""
    last: str = ""
    targets: frozenset[str] = frozenset()
    meets_request: Callable[[WriteRequest], bool] = _never
    meets_node: Callable[[ir.Node, int], bool] = _never
    cases: Callable[[], Iterator[Case]] | None = None
    instead: tuple[Instead, ...] = field(default=())
    slight: bool = False
    advice: str
    reported: str

    def __str__(self) -> str:
        """Return `onnxruntime has the fault 'NAME' (SUMMARY)`."""
        return f"onnxruntime has the fault '{self.name}' ({self.summary})"

    @property
    def is_avoided(self) -> bool:
        """Return whether plans avoid it; if not, onnxq writes no such nodes, or it costs too little."""
        return self.meets_request is not _never

    def declared(self, target: str, onnxruntime: str | None) -> bool:
        """Return whether a version (None: the newest) has it on a target, as far as is known without trying."""
        if not self.first or (self.targets and target not in self.targets):
            return False
        if onnxruntime is None:
            return not self.last
        version = _version(onnxruntime)
        return _version(self.first) <= version and (not self.last or version <= _version(self.last))


def _version(text: str) -> tuple[int, ...]:
    """Return major, minor and patch; a missing patch counts as the last one."""
    numbers = [int(part) for part in re.findall(r"\d+", text)[:3]]
    return tuple(numbers) if len(numbers) == 3 else (*numbers, 10**6)


faults: Registry[Fault] = Registry("fault", "onnxq.targets.faults")


def known_fault(name: str) -> str:
    """Return the name of a fault; raises RecipeError, with the nearest right spelling, if it is unknown."""
    return faults.get(name).name


def without_linear(present: Collection[str], opset: int) -> Fault | None:
    """Return the fault of a runtime that lacks QuantizeLinear and DequantizeLinear of an opset, None if it has them.

    Args:
        present: names of the faults that the runtime has.
        opset: of the model.
    """
    import onnx_ir as ir

    linear = ir.node("DequantizeLinear", [])
    around = ((fault, way.detour) for fault in map(faults.get, sorted(present)) for way in fault.instead)
    return next(
        (fault for fault, detour in around if detour is Detour.CONTRIB_LINEAR and fault.meets_node(linear, opset)), None
    )


def notes_on(detours: Collection[Detour], present: Collection[str]) -> tuple[str, ...]:
    """Return in words what each detour does, and which of the faults that a runtime has it avoids."""
    known = {
        way.detour: way.note(fault)
        for fault in map(faults.get, sorted(present, reverse=True))
        for way in reversed(fault.instead)
    }
    return tuple(known[detour] for detour in detours if detour in known)


def avoid(written: WriteRequest, present: Collection[str]) -> WriteRequest | str:
    """Return how a node is written where a runtime has faults: unchanged if none is met, or why it cannot be.

    Args:
        written: how it would be written.
        present: names of the faults that the runtime has.
    """
    met = next((fault for name in sorted(present) if (fault := faults.get(name)).meets_request(written)), None)
    if met is None:
        return written
    for way in met.instead:
        other = way.applied(written, met)
        if (written.portable and not way.portable) or met.meets_request(other):
            continue
        around = avoid(other, present)
        if isinstance(around, WriteRequest):
            return around
    return f"{met}; {met.advice}"


def met(written: WriteRequest) -> frozenset[str]:
    """Return the names of all known faults that a node would meet, on runtimes that have them."""
    return frozenset(name for name, fault in faults.items() if fault.meets_request(written))
