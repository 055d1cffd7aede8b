"""Sparse constants become dense ones: the graph library does not read them, and weights are quantized dense."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnxq.errors import ModelError

if TYPE_CHECKING:
    import onnx

# A few bytes can declare a tensor of any size; no weight that fits a protobuf message is bigger than this.
_BYTES_AT_MOST = 2**31


def densify(proto: onnx.ModelProto, what: str) -> onnx.ModelProto:
    """Return the model without sparse tensors: `proto` itself where it has none, else a changed copy.

    Args:
        proto: the model.
        what: how to call it in messages.

    Raises:
        ModelError: a sparse tensor is damaged or too big.
    """
    import onnx

    if not any(_has_sparse(graph) for graph in _graphs(proto)):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for graph in _graphs(copy):
        graph.initializer.extend(_dense(sparse, what) for sparse in graph.sparse_initializer)
        del graph.sparse_initializer[:]
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.SPARSE_TENSOR and node.op_type == "Constant":
                    dense = _dense(attribute.sparse_tensor, what)
                    attribute.Clear()
                    attribute.CopyFrom(onnx.helper.make_attribute("value", dense))
    return copy


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    todo: list[onnx.GraphProto | onnx.FunctionProto] = [proto.graph, *proto.functions]
    while todo:
        graph = todo.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                todo += [attribute.g] if attribute.HasField("g") else []
                todo += attribute.graphs


def _has_sparse(graph: onnx.GraphProto | onnx.FunctionProto) -> bool:
    return bool(getattr(graph, "sparse_initializer", ())) or any(
        attribute.HasField("sparse_tensor") for node in graph.node for attribute in node.attribute
    )


def _dense(sparse: onnx.SparseTensorProto, what: str) -> onnx.TensorProto:
    """Return the tensor that `sparse` represents (ONNX IR: values, and their indices in row-major order or by axis)."""
    import numpy as np
    import onnx

    name = sparse.values.name
    try:
        values = onnx.numpy_helper.to_array(sparse.values)
        indices = onnx.numpy_helper.to_array(sparse.indices)
        shape = tuple(sparse.dims)
        if math.prod(shape) * values.itemsize > _BYTES_AT_MOST:
            raise ModelError(f"{what}: sparse tensor '{name}' of shape {list(shape)} is too big; store it dense")
        if indices.ndim == 2:
            indices = np.ravel_multi_index(tuple(indices.T), shape)
        dense = np.zeros(math.prod(shape), dtype=values.dtype)
        dense[indices] = values
    except (ValueError, IndexError, TypeError) as error:
        raise ModelError(f"{what} is damaged: sparse tensor '{name}': {error}; export the model again") from None
    return onnx.numpy_helper.from_array(dense.reshape(shape), name=name)
