"""Taking possession of a model that others hold too, without copying its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxq.graph.walk import scopes

if TYPE_CHECKING:
    import onnx_ir as ir


def own(model: ir.Model) -> None:
    """Give every initializer and constant of `model` a tensor object of its own, which reads the shared data, in place.

    Needed because serializing writes a value's name into its tensor, and from there into the protobuf message that the
    tensor was made from: renaming a weight of a clone would rename it in the original.
    """
    import onnx_ir as ir

    for scope in scopes(model):
        for value in scope.initializers.values():
            if value.const_value is not None:
                value.const_value = _alias(value.const_value)
        for node in scope:
            attribute = node.attributes.get("value")
            if node.op_type == "Constant" and attribute is not None and not attribute.is_ref():
                node.attributes["value"] = ir.AttrTensor("value", _alias(attribute.as_tensor()))


def _alias(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return another tensor object over the same data."""
    import onnx_ir as ir

    shape = ir.Shape(tensor.shape.numpy())
    match tensor:
        case ir.ExternalTensor():
            return ir.ExternalTensor(
                tensor.location,
                tensor.offset,
                tensor.length,
                tensor.dtype,
                shape=shape,
                name=tensor.name,
                doc_string=tensor.doc_string,
                metadata_props=dict(tensor.metadata_props),
                base_dir=tensor.base_dir,
            )
        case ir.StringTensor():
            return ir.StringTensor(tensor.raw, shape=shape, name=tensor.name)
        case _:
            return ir.LazyTensor(
                lambda: tensor,
                dtype=tensor.dtype,
                shape=shape,
                name=tensor.name,
                doc_string=tensor.doc_string,
                metadata_props=dict(tensor.metadata_props),
            )
