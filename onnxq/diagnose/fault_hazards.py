"""Nodes of a model as it is that meet a fault of the runtime."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnxq.evaluate.faults import standing
from onnxq.targets import Target
from onnxq.targets.faults import faults
from onnxq.types.diagnosis import Hazard

if TYPE_CHECKING:
    import onnx_ir as ir


def fault_hazards(model: ir.Model, target: Target) -> Iterator[Hazard]:
    """Yield one hazard for each fault that the target's runtime has and nodes of the model meet."""
    for name, where in standing(model, target).items():
        fault = faults.get(name)
        text = f"{fault}: {len(where)} nodes"
        yield Hazard(code="runtime-fault", text=text, advice=fault.advice, where=where)
