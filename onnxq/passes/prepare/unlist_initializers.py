"""Take initializers off the list of graph inputs."""

from __future__ import annotations

import onnx_ir as ir

from onnxq.passes import register_pass

# Before this version of the format every initializer had to be listed as an input too, and was a constant all the same.
_FIRST_WITHOUT = 4


@register_pass("unlist-initializers", preserves_semantics=True)
class UnlistInitializers(ir.passes.InPlacePass):
    """Take initializers off the list of inputs in models older than IR version 4, or in all (`all=true`).

    From IR version 4 on an initializer that is also an input is a default value which the caller may replace; taking
    that right away is for the user to decide.
    """

    def __init__(self, all: bool = False) -> None:
        super().__init__()
        self.all = all

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change the list of inputs of the main graph, and the IR version where it forbids that."""
        if model.ir_version >= _FIRST_WITHOUT and not self.all:
            return ir.passes.PassResult(model, modified=False)
        old = model.ir_version < _FIRST_WITHOUT
        model.ir_version = max(model.ir_version, _FIRST_WITHOUT)
        inputs = [value for value in model.graph.inputs if not value.is_initializer()]
        modified = old or len(inputs) != len(model.graph.inputs)
        model.graph.inputs[:] = inputs
        return ir.passes.PassResult(model, modified=modified)
