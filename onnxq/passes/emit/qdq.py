"""QDQ: the float operators stay, between QuantizeLinear and DequantizeLinear; onnxruntime fuses each group.

    activation:  producer -> [QuantizeLinear -> DequantizeLinear] -> reader
    weight:      codes -> [DequantizeLinear] -> reader          (the float copy is gone)
    bias:        int32 codes -> [DequantizeLinear] -> reader    (scale = scale of activation x scale of weight)

A node whose decision lists an output has that output quantized right behind it, and every reader gets the quantized
value. Otherwise only the readers whose decisions name the tensor do. Operators: ONNX specification of QuantizeLinear
and DequantizeLinear, opset 10 (per tensor) and 13 (per channel).
"""

from __future__ import annotations

import onnx_ir as ir

from onnxq.passes import register_pass
from onnxq.passes.emit.editor import Editor
from onnxq.types.format import Format
from onnxq.types.plan import Decision, Plan, Role, TensorPlan


@register_pass("emit-qdq", preserves_semantics=False)
class EmitQdq(ir.passes.InPlacePass):
    """Put QuantizeLinear and DequantizeLinear where the plan says (format qdq)."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the model; raises PlanError if the plan does not fit it."""
        editor = Editor(model, self.plan, Format.QDQ)
        writer = _Writer(editor)
        for decision in editor.decisions():
            writer.carry_out(decision)
        writer.finish()
        return ir.passes.PassResult(model, modified=editor.changed)


class _Writer:
    """Rewires nodes; remembers which dequantized form of which tensor it has made."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._made: dict[str, ir.Value] = {}
        self._replaced: list[ir.Value] = []

    def carry_out(self, decision: Decision) -> None:
        """Rewire one node's inputs and quantize its listed outputs."""
        node = self._editor.node(decision)
        for slot, key in decision.inputs.items():
            value, quantized = node.inputs[slot], self._dequantized(key, node)
            if value is not None and value is not quantized:
                node.replace_input_with(slot, quantized)
                self._replaced.append(value)
        for key in decision.outputs.values():
            self._dequantized(key, node)

    def finish(self) -> None:
        """Take out the float constants that nothing reads any more."""
        self._editor.drop_unread(self._replaced)

    def _dequantized(self, key: str, reader: ir.Node) -> ir.Value:
        """Return the dequantized form of a planned tensor, making it on first use."""
        if key not in self._made:
            tensor = self._editor.tensor(key)
            make = self._activation if tensor.role is Role.ACTIVATION else self._constant
            self._made[key] = make(tensor, reader)
        return self._made[key]

    def _activation(self, tensor: TensorPlan, reader: ir.Node) -> ir.Value:
        editor = self._editor
        value, params = editor.values[tensor.tensor], editor.activation_params(tensor)
        # An output is quantized for all of its readers, whichever decision names it first.
        replaces = tensor.name in editor.emitted
        source, before = value, list(value.uses())
        if not replaces and tensor.tensor in editor.emitted:
            source = self._dequantized(tensor.tensor, reader)
        scale, zero_point = editor.parameters(tensor.name, params)
        quantize = editor.quantize(source, scale, zero_point, f"{tensor.name}/quantized")
        dequantize = editor.dequantize(quantize.outputs[0], scale, zero_point, f"{tensor.name}/dequantized", params)
        editor.insert_behind(source, [quantize, dequantize])
        result = dequantize.outputs[0]
        if replaces:
            for use in before:
                use.node.replace_input_with(use.idx, result)
            if value.is_graph_output():
                editor.stand_in(value, result)
        return result

    def _constant(self, tensor: TensorPlan, reader: ir.Node) -> ir.Value:
        editor = self._editor
        codes, params = editor.codes_and_params(tensor.name)
        scale, zero_point = editor.parameters(tensor.name, params)
        node = editor.dequantize(codes, scale, zero_point, f"{tensor.name}/dequantized", params)
        editor.insert_before(reader, node)
        return node.outputs[0]
