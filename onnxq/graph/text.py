"""Small models from ONNX text, with weights made up where the text gives none."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


def model_from_text(text: str, *, seed: int = 0) -> ir.Model:
    """Return the model that `text` describes, with types and shapes inferred and every node named `Op_index`.

    A float tensor that the text declares between `<` and `>` without a value, and that no node computes, becomes an
    initializer of normally distributed numbers (standard deviation 0.2), the same for the same seed.

    Args:
        text: ONNX text (https://onnx.ai/onnx/repo-docs/Syntax.html).
        seed: of the numbers.
    """
    import numpy as np
    import onnx
    import onnx.parser
    import onnx_ir as ir

    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(seed)
    computed = {name for node in proto.graph.node for name in node.output}
    for info in list(proto.graph.value_info):
        kind = info.type.tensor_type
        if info.name in computed or kind.elem_type != onnx.TensorProto.FLOAT:
            continue
        shape = [dim.dim_value for dim in kind.shape.dim]
        values = np.asarray(rng.standard_normal(shape) * 0.2, np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, info.name))
        proto.graph.value_info.remove(info)
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))
