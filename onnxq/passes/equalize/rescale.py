"""Carry out an equalization: change constants, and put a Mul or MatMul where no constant takes the change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxq.errors import PlanError
from onnxq.graph.names import name_of
from onnxq.graph.node_marks import mark_equalizing
from onnxq.graph.spill import Spill
from onnxq.graph.walk import top_level
from onnxq.graph.writer import Writer
from onnxq.passes import register_pass

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Inserted:
    """A Mul, or a MatMul, between a tensor and some of its readers.

    Attributes:
        tensor: name of the value.
        nodes: names of the readers.
        factor: broadcasts to the value; of a MatMul, the matrix behind it.
        method: what for.
        op: which of the two.
    """

    tensor: str
    nodes: tuple[str, ...]
    factor: Floats
    method: str
    op: Literal["Mul", "MatMul"] = "Mul"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rescaling:
    """What is to be done.

    Attributes:
        factors: by the name of an initializer, what to multiply it with; broadcasts to its shape.
        left, right: matrices to multiply it with on that side then.
        addends: what to add to it last.
        inserted: nodes to put in.
    """

    factors: Mapping[str, Floats] = field(default_factory=dict)
    left: Mapping[str, Floats] = field(default_factory=dict)
    right: Mapping[str, Floats] = field(default_factory=dict)
    addends: Mapping[str, Floats] = field(default_factory=dict)
    inserted: Sequence[Inserted] = ()

    def applied(self, name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a constant as it is to be, in float64 where anything changes."""
        result = array * self.factors.get(name, 1.0)
        result = self.left[name] @ result if name in self.left else result
        result = result @ self.right[name] if name in self.right else result
        return np.asarray(result + self.addends.get(name, 0.0))


@register_pass("rescale", preserves_semantics=True)
class Rescale(ir.passes.InPlacePass):
    """Scale, rotate or shift constants on one side of a tensor and undo it on the other, as an equalization decided."""

    def __init__(self, rescaling: Rescaling) -> None:
        """Take what is to be done."""
        super().__init__()
        self.rescaling = rescaling

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph; raises PlanError where the model is not the one it was decided for."""
        spill = Spill()
        changes = self.rescaling
        for name in dict.fromkeys([*changes.factors, *changes.left, *changes.right, *changes.addends]):
            value = model.graph.initializers.get(name)
            if value is None or value.const_value is None:
                raise PlanError(f"the model has no constant '{name}' to scale; equalize this model anew")
            array = value.const_value.numpy()
            scaled = np.asarray(changes.applied(name, array), array.dtype)
            if scaled.shape != array.shape or not np.isfinite(scaled).all():
                raise PlanError(f"scaling '{name}' leaves what its type can hold; leave the equalization out")
            value.const_value = ir.tensor(spill.keep(scaled), name=name)
        nodes = dict(top_level(model))
        writer = Writer(model)
        for insert in self.rescaling.inserted:
            _insert(insert, [nodes[name] for name in insert.nodes], writer)
        changed = bool(changes.factors or changes.left or changes.right or changes.addends or changes.inserted)
        return ir.passes.PassResult(model, modified=changed)


def _insert(insert: Inserted, readers: list[ir.Node], writer: Writer) -> None:
    slots = [
        (node, slot) for node in readers for slot, source in enumerate(node.inputs) if name_of(source) == insert.tensor
    ]
    if not slots:
        raise PlanError(f"nothing reads '{insert.tensor}' any more; equalize this model anew")
    value: Any = slots[0][0].inputs[slots[0][1]]
    graph = readers[0].graph
    assert isinstance(graph, ir.Graph)
    factor = writer.constant(graph, f"{insert.tensor}/factor", np.asarray(insert.factor, value.dtype.numpy()))
    name = writer.name(f"{insert.tensor}/{insert.op}")
    scaled = f"{insert.tensor}/scaled"
    node = writer.node(insert.op, [value, factor], scaled, name=name, dtype=value.dtype, shape=value.shape)
    mark_equalizing(node, insert.method)
    first = next(each for each in graph if each in readers)
    graph.insert_before(first, node)
    for reader, slot in slots:
        reader.replace_input_with(slot, node.outputs[0])
