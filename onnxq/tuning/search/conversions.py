"""The tensors between units, and what it takes to convert them between float and codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxq.graph.walk import nodes
from onnxq.stages.plan import Sizes
from onnxq.tuning.search.pareto import Conversion
from onnxq.tuning.units import Unit
from onnxq.types.costs import Costs
from onnxq.types.plan import Plan, Role

if TYPE_CHECKING:
    import onnx_ir as ir

# Nanoseconds that the runtime takes for any node, however small.
_NODE = 2000.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversionTimes:
    """How long conversions take.

    Attributes:
        sizes: extents of tensors.
        timing: of the target.
    """

    sizes: Sizes
    timing: Costs

    def quantize(self, value: ir.Value) -> float:
        """Return nanoseconds of one QuantizeLinear."""
        return _NODE + self.sizes.count(value) * self.timing.quantize

    def dequantize(self, value: ir.Value) -> float:
        """Return nanoseconds of one DequantizeLinear."""
        return _NODE + self.sizes.count(value) * self.timing.dequantize


def conversions(
    model: ir.Model, units: Sequence[Unit], way: int, plan: Plan, *, times: ConversionTimes, whole: float
) -> tuple[Conversion, ...]:
    """Return the activations that quantized units read, with the time of conversions in shares of a whole model's time.

    Args:
        model: prepared.
        units: its units.
        way: index of the choice that reads and writes codes.
        plan: in which all units go that way.
        times: of conversions.
        whole: nanoseconds of the float model.
    """
    holders = {node: index for index, unit in enumerate(units) for node in unit.by_plan[way]}
    named = dict(nodes(model))
    paths = {node: path for path, node in named.items()}
    readers: dict[ir.Value, set[str]] = {}
    for decision in plan.decisions:
        for slot, key in decision.inputs.items():
            value = named[decision.node].inputs[slot]
            if value is not None and plan.tensors[key].role is Role.ACTIVATION and decision.node in holders:
                readers.setdefault(value, set()).add(decision.node)
    between = []
    for value, names in readers.items():
        maker = value.producer()
        producer = None if maker is None else holders.get(paths.get(maker, ""))
        consumers = tuple(sorted({holders[name] for name in names} - {producer}))
        if not consumers:
            continue
        others = {paths.get(use.node, "") for use in value.uses()} - names
        between.append(
            Conversion(
                producer=producer,
                consumers=consumers,
                float_reader=bool(others) or value.is_graph_output(),
                quantize=times.quantize(value) / whole,
                dequantize=times.dequantize(value) / whole,
            )
        )
    return tuple(between)
