"""Check the model."""

from __future__ import annotations

import onnx_ir as ir

from onnxq.errors import ModelError
from onnxq.passes import register_pass
from onnxq.passes.verifier import checker_complaint


@register_pass("check", preserves_semantics=True)
class Check(ir.passes.InPlacePass):
    """Run the ONNX checker; changes nothing."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Check; raises ModelError with the checker's first line."""
        complaint = checker_complaint(model)
        if complaint is not None:
            raise ModelError(f"the ONNX checker refuses the model: {complaint}")
        return ir.passes.PassResult(model, modified=False)
