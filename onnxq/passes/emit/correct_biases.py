"""Biases that take back what quantization shifts on average, by the amounts of the plan."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxq.errors import PlanError
from onnxq.passes import register_pass
from onnxq.types.plan import Plan


@register_pass("correct-biases", preserves_semantics=False)
class CorrectBiases(ir.passes.InPlacePass):
    """Add to biases what the plan says."""

    def __init__(self, plan: Plan) -> None:
        """Take a plan."""
        super().__init__()
        self.plan = plan

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change the initializers; raises PlanError if the plan does not fit the model."""
        for name, amounts in self.plan.bias_corrections.items():
            value = model.graph.initializers.get(name)
            tensor = None if value is None else value.const_value
            if value is None or tensor is None or tensor.size != len(amounts):
                message = f"the plan corrects {len(amounts)} values of bias '{name}', which the model does not have"
                raise PlanError(f"{message}; plan again")
            bias = tensor.numpy()
            corrected = bias + np.array(amounts, np.float64).reshape(bias.shape)
            value.const_value = ir.tensor(corrected.astype(bias.dtype), name=name)
        return ir.passes.PassResult(model, modified=bool(self.plan.bias_corrections))
