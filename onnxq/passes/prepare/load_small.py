"""Load small external tensors."""

from __future__ import annotations

import onnx_ir as ir

from onnxq.graph.walk import scopes
from onnxq.passes import register_pass

# Bytes. Shapes, axes and so on are smaller; shape inference is shown no tensor above.
LIMIT = 1024


@register_pass("load-small", preserves_semantics=True)
class LoadSmallTensors(ir.passes.InPlacePass):
    """Read external tensors of up to 1 KiB into memory, where shape inference can see them.

    Shape inference must know the values of shapes, axes and so on, and it fails altogether on an external one.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace the tensors; big ones stay lazy."""
        small = [
            value
            for scope in scopes(model)
            for value in scope.initializers.values()
            if isinstance(value.const_value, ir.ExternalTensor) and value.const_value.nbytes <= LIMIT
        ]
        for value in small:
            tensor = value.const_value
            assert tensor is not None
            value.const_value = ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)
        return ir.passes.PassResult(model, modified=bool(small))
