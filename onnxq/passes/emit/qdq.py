"""QDQ: the float operators stay, between QuantizeLinear and DequantizeLinear; onnxruntime fuses each group.

    activation:  producer -> [QuantizeLinear -> DequantizeLinear] -> reader
    weight:      codes -> [DequantizeLinear] -> reader          (the float copy is gone)
    bias:        int32 codes -> [DequantizeLinear] -> reader    (scale = scale of activation x scale of weight)

A node whose decision lists an output has that output quantized right behind it, and every reader gets the quantized
value. Otherwise only the readers whose decisions name the tensor do. Operators: ONNX specification of QuantizeLinear
and DequantizeLinear, opset 10 (per tensor) and 13 (per channel).
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxq.passes import register_pass
from onnxq.passes.emit.editor import Editor
from onnxq.passes.emit.emitter import DecisionWriter, Emitter
from onnxq.passes.emit.rewire import Rewirer
from onnxq.types.format import Format
from onnxq.types.plan import TensorPlan
from onnxq.types.scheme import QuantType


@register_pass("emit-qdq", preserves_semantics=False)
class EmitQdq(Emitter):
    """Put QuantizeLinear and DequantizeLinear where the plan says (format qdq)."""

    fmt = Format.QDQ

    def writer(self, editor: Editor) -> DecisionWriter:
        """See `Emitter`."""
        return _QdqWriter(editor)


class _QdqWriter(Rewirer):
    """Makes pairs of QuantizeLinear and DequantizeLinear."""

    def activation(self, tensor: TensorPlan, source: ir.Value) -> Sequence[ir.Node]:
        """Return the pair that quantizes an activation."""
        editor = self.editor
        params = editor.activation_params(tensor)
        scale, zero_point = editor.parameters(tensor.name, params)
        quantize = editor.writer.quantize(source, scale, zero_point, f"{tensor.name}/quantized")
        codes = quantize.outputs[0]
        return quantize, editor.dequantize(codes, scale, zero_point, f"{tensor.name}/dequantized", params)

    def constant(self, tensor: TensorPlan, reader: ir.Node) -> ir.Value:
        """Store the codes of a constant, behind a DequantizeLinear."""
        editor = self.editor
        codes, params = editor.codes_and_params(tensor.name)
        scale = editor.scale(tensor.name, params)
        # Of int32 it is 0, and some providers (WebGPU, WebNN) refuse one; of fewer bits QGemm wants it.
        is_int32 = params.scheme.dtype is QuantType.INT32
        zero_point = None if is_int32 else editor.zero_point(tensor.name, params)
        node = editor.dequantize(codes, scale, zero_point, f"{tensor.name}/dequantized", params)
        editor.insert_before(reader, node)
        return node.outputs[0]
