"""float16 and bfloat16: constants are stored in the shorter type, and nodes compute in it, where the plan says so.

    constant, float32 reader:  c16 -> [Cast to float32] -> reader      onnxruntime computes the Cast once, at loading
    constant, 16-bit reader:   c16 -> reader
    other value at a border:   x -> [Cast] -> reader                   one Cast for all readers of a type

Inputs and outputs of the graph keep their types, and so do those of the bodies of If, Loop and Scan. A value that a
body reads from outside is cast outside, once for all readers.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxq.graph.float_slots import float_slots
from onnxq.graph.node_marks import mark_unpacking
from onnxq.graph.walk import nodes, scopes
from onnxq.graph.writer import Writer
from onnxq.numerics.floats import to_float
from onnxq.passes import register_pass
from onnxq.types.float_type import FloatType
from onnxq.types.plan import Plan

_TYPES = {
    FloatType.FLOAT32: ir.DataType.FLOAT,
    FloatType.FLOAT16: ir.DataType.FLOAT16,
    FloatType.BFLOAT16: ir.DataType.BFLOAT16,
}


@register_pass("convert-float", preserves_semantics=False)
class ConvertFloat(ir.passes.InPlacePass):
    """Store constants and compute nodes in float16 or bfloat16 where the plan says so."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the model: nodes first, then the constants that float32 readers are left with."""
        writer = _FloatTypeWriter(model)
        shorter = {
            decision.node: decision.float_type
            for decision in self.plan.decisions
            if decision.float_type not in (None, FloatType.FLOAT32)
        }
        stored = {
            name: entry.float_type
            for name, entry in self.plan.constants.items()
            if entry.float_type is not FloatType.FLOAT32
        }
        # Every slot is looked up before any value changes its type.
        chosen = [(node, shorter[name]) for name, node in nodes(model) if name in shorter]
        opset = model.opset_imports.get("", 1)
        slotted = [(node, kind, float_slots(node, opset, kind)) for node, kind in chosen if kind is not None]
        for node, kind, slots in slotted:
            for slot in slots.outputs:
                writer.returns(node.outputs[slot], kind)
        for node, kind, slots in slotted:
            for slot in slots.inputs:
                writer.reads(node, slot, kind)
        for scope in scopes(model):
            for name, value in list(scope.initializers.items()):
                if name in stored and value.dtype == ir.DataType.FLOAT:
                    writer.stores(scope, value, stored[name])
        writer.finish()
        return ir.passes.PassResult(model, modified=writer.changed)


class _FloatTypeWriter:
    """Changes types, one Cast a value and type.

    Attributes:
        changed: whether the model did.
    """

    def __init__(self, model: ir.Model) -> None:
        self.changed = False
        self._writer = Writer(model)
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def returns(self, value: ir.Value, kind: FloatType) -> None:
        """Let a node return `value` in the type `kind`; whoever read it before reads a Cast to float32."""
        uses = list(value.uses())
        assert value.graph is not None
        outputs = value.graph.outputs
        is_output = value.is_graph_output()
        name = value.name or ""
        value.type = ir.TensorType(_TYPES[kind])
        if not uses and not is_output:
            return
        if is_output:
            value.name = self._writer.name(f"{name}/{kind}")
        back = self._cast(value, ir.DataType.FLOAT, name if is_output else self._writer.name(f"{name}/float32"))
        for use in uses:
            use.node.replace_input_with(use.idx, back)
        for index, output in enumerate(outputs):
            if output is value:
                outputs[index] = back

    def reads(self, node: ir.Node, slot: int, kind: FloatType) -> None:
        """Let a node read an input in the type `kind`: as it is computed, as a constant's own copy, or by a Cast."""
        value = node.inputs[slot]
        assert value is not None
        producer, dtype = value.producer(), _TYPES[kind]
        source = producer.inputs[0] if producer is not None and producer.op_type == "Cast" else None
        if source is not None and self._casts.get((source, ir.DataType.FLOAT)) is value and source.dtype == dtype:
            result = source
        elif value.is_initializer() and not value.is_graph_input():
            result = self._copy(value, kind)
        else:
            result = self._cast(value, dtype, None)
        node.replace_input_with(slot, result)
        self.changed = True

    def stores(self, scope: ir.Graph, value: ir.Value, kind: FloatType) -> None:
        """Store a constant in the type `kind`, and cast it for its readers; the Cast takes over its name."""
        uses = list(value.uses())
        if not uses or value.is_graph_output():
            return
        copied = self._casts.get((value, _TYPES[kind]))
        short = copied if copied is not None else self._copy(value, kind)
        back = self._cast(short, ir.DataType.FLOAT, self._writer.name(f"{value.name}/float32"), scope)
        unpacking = back.producer()
        assert unpacking is not None
        mark_unpacking(unpacking)
        for use in uses:
            use.node.replace_input_with(use.idx, back)
        self.changed = True

    def finish(self) -> None:
        """Take out Casts and float32 constants that nothing reads any more; their shorter copies get the names."""
        for (source, dtype), result in self._casts.items():
            node = result.producer()
            if node is not None and not result.uses() and not result.is_graph_output() and node.graph is not None:
                node.graph.remove(node, safe=True)
            elif node is None and not source.uses() and not source.is_graph_output() and dtype != ir.DataType.FLOAT:
                scope = source.graph
                assert scope is not None
                name = source.name or ""
                scope.initializers.pop(name)
                result.name = name

    def _copy(self, value: ir.Value, kind: FloatType) -> ir.Value:
        """Return a constant's copy in the type `kind`; it is computed when the model is saved."""
        dtype = _TYPES[kind]
        if (value, dtype) not in self._casts:
            tensor, scope = value.const_value, value.graph
            assert tensor is not None
            assert scope is not None
            short = ir.LazyTensor(
                lambda: ir.tensor(to_float(tensor.numpy(), kind), dtype=dtype),
                dtype=dtype,
                shape=ir.Shape(tensor.shape.numpy()),
            )
            result = self._writer.constant(scope, f"{value.name}/{kind}", short)
            self._casts[value, dtype] = result
        return self._casts[value, dtype]

    def _cast(self, value: ir.Value, dtype: ir.DataType, name: str | None, scope: ir.Graph | None = None) -> ir.Value:
        """Return `value` cast, right behind where it is first known."""
        if (value, dtype) not in self._casts:
            graph = scope or value.graph
            assert graph is not None
            name = name or self._writer.name(f"{value.name}/{dtype.name.lower()}")
            result = ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape)
            cast = self._writer.name(f"{name}/Cast")
            node = self._writer.node("Cast", [value], [result], attributes={"to": int(dtype)}, name=cast)
            producer = value.producer()
            if producer is not None:
                graph.insert_after(producer, [node])
            else:
                graph.insert_before(graph[0], [node])
            self._casts[value, dtype] = result
            self.changed = True
        return self._casts[value, dtype]
