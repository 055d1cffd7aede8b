"""Examinations: every recipe that is planned for a model is held against its nodes once."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxq.evaluate.faults import present
from onnxq.graph.walk import nodes
from onnxq.runtime.session import CPU
from onnxq.stages.plan import Examined, examine
from onnxq.stages.plan.already_quantized import is_quantized
from onnxq.targets import Target
from onnxq.targets.faults import faults, met
from onnxq.types.recipe import Recipe

if TYPE_CHECKING:
    import onnx_ir as ir

_REMEMBERED = 16  # recipes: the choices of a search, or the last draft and the next


class Examinations:
    """Examines a prepared model, once for each recipe, and finds out which faults of the runtime its plans would meet.

    Attributes:
        model: prepared. target: with the faults that are known so far, which plans go around.
        tries_faults: whether faults are tried at all; a replayed recipe says which there are.
    """

    def __init__(self, model: ir.Model, target: Target, *, tries_faults: bool) -> None:
        """Take the model; nothing is examined yet."""
        self.model = model
        self.target = target
        self.tries_faults = tries_faults
        self._examined: deque[Examined] = deque(maxlen=_REMEMBERED)

    def __call__(self, recipe: Recipe) -> Examined:
        """Return what facts alone say of every node under a recipe."""
        for examined in self._examined:
            if examined.recipe == recipe:
                return examined
        examined = examine(self.model, recipe, self.target)
        while self.tries_faults and (untried := self._untried(examined)):
            there = present(untried, self.target)
            if not there:
                break
            self.target = replace(self.target, faults=self.target.faults | there)
            examined = examine(self.model, recipe, self.target)
        self._examined.append(examined)
        return examined

    def of(self, model: ir.Model) -> Examinations:
        """Return examinations of another model, with what is known of the target."""
        return Examinations(model, self.target, tries_faults=self.tries_faults)

    def _untried(self, examined: Examined) -> set[str]:
        """Return the faults that a plan would meet and that are not known to be there."""
        if self.target.provider not in CPU:
            return set()
        return {name for entry in examined.candidates for name in met(entry.written)} - self.target.faults


def with_any_faults(target: Target, model: ir.Model) -> Target:
    """Return a target with all faults of its runtime that what is written of imported nodes could meet.

    Args:
        target: with the faults that are known so far.
        model: prepared; one without quantized nodes changes nothing.
    """
    if target.provider not in CPU or not any(is_quantized(node) is not None for _, node in nodes(model)):
        return target
    avoided = {name for name, fault in faults.items() if fault.is_avoided} - target.faults
    return replace(target, faults=target.faults | present(avoided, target))
