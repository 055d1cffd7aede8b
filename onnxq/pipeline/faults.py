"""Which faults of the runtime plans for a model would meet, so that the planner goes around them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxq.evaluate.faults import present
from onnxq.graph.walk import nodes
from onnxq.runtime.session import CPU
from onnxq.stages.plan.already_quantized import is_quantized
from onnxq.stages.plan.candidates import Candidate, examine
from onnxq.targets import Target
from onnxq.targets.faults import faults, met
from onnxq.types.recipe import Recipe

if TYPE_CHECKING:
    import onnx_ir as ir


def with_faults(target: Target, model: ir.Model, recipes: Iterable[Recipe]) -> Target:
    """Return a target with those faults of its runtime that plans of these recipes would meet, and go around.

    Args:
        target: with the faults that are known so far. model: prepared. recipes: whatever may be planned.
    """
    if target.provider not in CPU:
        return target
    asked = list(recipes)
    known: set[str] = set(target.faults)
    while True:
        entries = (entry for recipe in asked for entry in examine(model, recipe, target))
        open_ = {name for entry in entries if isinstance(entry, Candidate) for name in met(entry.written)} - known
        if not open_:
            return target
        known |= open_
        target = replace(target, faults=target.faults | present(open_, target))


def with_any_faults(target: Target, model: ir.Model) -> Target:
    """Return a target with all faults of its runtime that what is written of imported nodes could meet.

    Args:
        target: with the faults that are known so far. model: prepared; one without quantized nodes changes nothing.
    """
    if target.provider not in CPU or not any(is_quantized(node) is not None for _, node in nodes(model)):
        return target
    avoided = {name for name, fault in faults.items() if fault.is_avoided} - target.faults
    return replace(target, faults=target.faults | present(avoided, target))
