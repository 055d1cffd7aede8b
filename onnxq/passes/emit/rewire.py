"""Rewiring: every planned tensor gets one form that its quantized readers read, whatever that form consists of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import onnx_ir as ir

from onnxq.passes.emit.editor import Editor
from onnxq.passes.emit.emitter import DecisionWriter
from onnxq.types.plan import Decision, Role, TensorPlan


class Rewirer(DecisionWriter):
    """Rewires nodes as decisions say; remembers the form of each tensor."""

    def __init__(self, editor: Editor) -> None:
        super().__init__(editor)
        self._forms: dict[str, ir.Value] = {}
        self._replaced: list[ir.Value] = []

    @abstractmethod
    def activation(self, tensor: TensorPlan, source: ir.Value) -> Sequence[ir.Node]:
        """Return the nodes, still to be inserted, that turn `source` into its form; the last one's output is it."""

    @abstractmethod
    def constant(self, tensor: TensorPlan, reader: ir.Node) -> ir.Value:
        """Return the form of a constant, put into the graph in front of its first `reader`."""

    def carry_out(self, decision: Decision) -> None:
        """Rewire one node's inputs, and give its listed outputs their form."""
        node = self.editor.node(decision)
        for slot, key in decision.inputs.items():
            value, form = node.inputs[slot], self._form(key, node)
            if value is not None and value is not form:
                node.replace_input_with(slot, form)
                self._replaced.append(value)
        for key in decision.outputs.values():
            self._form(key, node)

    def finish(self) -> None:
        """Take out the float constants that nothing reads any more."""
        self.editor.drop_unread(self._replaced)

    def _form(self, key: str, reader: ir.Node) -> ir.Value:
        """Return the form of a planned tensor, making it on first use."""
        if key not in self._forms:
            tensor = self.editor.tensor(key)
            role_is_activation = tensor.role is Role.ACTIVATION
            self._forms[key] = self._activation(tensor, reader) if role_is_activation else self.constant(tensor, reader)
        return self._forms[key]

    def _activation(self, tensor: TensorPlan, reader: ir.Node) -> ir.Value:
        value = self.editor.values[tensor.tensor]
        # An output gets its form for all of its readers, whichever decision names it first.
        replaces = tensor.name in self.editor.emitted
        source, before = value, list(value.uses())
        if not replaces and tensor.tensor in self.editor.emitted:
            source = self._form(tensor.tensor, reader)
        nodes = self.activation(tensor, source)
        self.editor.insert_behind(source, nodes)
        result = nodes[-1].outputs[0]
        if replaces:
            for use in before:
                use.node.replace_input_with(use.idx, result)
            if value.is_graph_output():
                self.editor.stand_in(value, result)
        return result
