"""What a value holds when it never changes: initializers and Constant nodes alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from onnxq.graph.names import names, take_name

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir


_MOVES = frozenset({"Concat", "Flatten", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})


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


def add_constant(graph: ir.Graph, name: str, array: npt.NDArray[Any]) -> ir.Value:
    """Return a new initializer of a graph, named so or with a number behind."""
    import onnx_ir as ir

    name = take_name(name, names(graph))
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value


def moved_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return what `value` always holds where it is a constant, or moved from constants; None if it is neither.

    Exporters put Transpose, Slice, Concat ... between a weight and its operator. Folding leaves them where several
    read the weight, since the model would grow by the copy. They are computed when the tensor's data is asked for,
    also where the node that moves them was taken out of the graph before.
    """
    tensor = constant_tensor(value)
    node = None if value is None else value.producer()
    if tensor is not None or value is None or node is None:
        return tensor
    if node.domain or node.op_type not in _MOVES or value.dtype is None or value.shape is None:
        return None
    sources = [moved_tensor(source) for source in node.inputs]
    if not value.shape.is_static() or any(
        source is not None and tensor is None for source, tensor in zip(node.inputs, sources, strict=True)
    ):
        return None
    import onnx_ir as ir

    op, attributes = node.op_type, list(node.attributes.values())
    opset = 13 if node.graph is None else node.graph.opset_imports.get("", 13)
    return ir.LazyTensor(
        lambda: ir.tensor(_moved(op, attributes, sources, opset)), dtype=value.dtype, shape=value.shape, name=value.name
    )


def untransposed(value: ir.Value) -> tuple[ir.Value, tuple[int, ...]]:
    """Return what `value` is a transposed copy of (itself, if of nothing), and for each of its axes the one there."""
    order = tuple(range(0 if value.shape is None else len(value.shape)))
    node = value.producer()
    while node is not None and node.op_type == "Transpose" and not node.domain and node.inputs[0] is not None:
        perm = node.attributes.get_ints("perm", tuple(reversed(range(len(order)))))
        order = tuple(perm[axis] for axis in order)
        value = node.inputs[0]
        node = value.producer()
    return value, order


def _moved(
    op: str, attributes: Sequence[ir.Attr], sources: Sequence[ir.TensorProtocol | None], opset: int
) -> npt.NDArray[Any]:
    """Return what an operator makes of constants, None for an input that is left out."""
    import numpy as np
    import onnx_ir as ir
    from onnx.reference import ReferenceEvaluator

    feeds = {f"input_{slot}": tensor.numpy() for slot, tensor in enumerate(sources) if tensor is not None}
    inputs = [ir.val(f"input_{slot}") if f"input_{slot}" in feeds else None for slot in range(len(sources))]
    node = ir.Node("", op, inputs, attributes, outputs=[ir.val("output")])
    (result,) = ReferenceEvaluator(ir.to_proto(node), opsets={"": opset}).run(None, feeds)
    return np.asarray(result)


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
