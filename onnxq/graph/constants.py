"""What a value holds when it never changes: initializers and Constant nodes alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor that `value` always holds, or None if it is no constant; reads no data.

    A constant is an initializer that is not also a graph input (the caller may override those), or the output of a
    Constant node. Sparse constants and attributes that refer to a function's parameter are none.
    """
    if value is None or value.is_graph_input():
        return None
    if value.is_initializer():
        return value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain or len(node.attributes) != 1:
        return None
    (attribute,) = node.attributes.values()
    return None if attribute.is_ref() else _attribute_tensor(attribute)


def constant_array(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """Return the constant that `value` holds as an array of its own dtype and shape (read-only), None if it is none."""
    tensor = constant_tensor(value)
    return None if tensor is None else tensor.numpy()


def _attribute_tensor(attribute: ir.Attr) -> ir.TensorProtocol | None:
    """Return the tensor in the one attribute of a Constant node."""
    import numpy as np
    import onnx_ir as ir

    match attribute.name:
        case "value":
            return attribute.as_tensor()
        case "value_float" | "value_floats":
            return ir.tensor(np.array(attribute.value, dtype=np.float32))
        case "value_int" | "value_ints":
            return ir.tensor(np.array(attribute.value, dtype=np.int64))
        case "value_string":
            return ir.StringTensor([attribute.as_string().encode()], shape=ir.Shape([]))
        case "value_strings":
            texts = attribute.as_strings()
            return ir.StringTensor([text.encode() for text in texts], shape=ir.Shape([len(texts)]))
    return None
