"""Every tensor that a model carries, wherever it is kept, and how many bytes they take together."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from onnxq.graph.walk import scopes

if TYPE_CHECKING:
    import onnx_ir as ir


def tensors(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """Yield each tensor with the name of the value, or of the node and attribute, that holds it. Reads no data.

    Visits initializers and attributes of the main graph, of all subgraphs and of local functions. A tensor that two
    values share comes twice.
    """
    for scope in scopes(model):
        for name, value in scope.initializers.items():
            if value.const_value is not None:
                yield name, value.const_value
        for node in scope:
            yield from _of_node(node)


def total_bytes(model: ir.Model) -> int:
    """Return the bytes of all tensors of `model`, each stored tensor counted once."""
    return sum({id(tensor): tensor.nbytes for _, tensor in tensors(model)}.values())


def stored_bytes(model: ir.Model) -> int:
    """Return about the bytes that a model takes in files: its tensors, and the graph around them. Reads no weights.

    Q and DQ take some hundred bytes each, with names and parameters: more than a small weight saves.
    """
    import onnx_ir as ir

    light = model.clone()
    stored, seen = 0, set()
    for graph in light.graphs():
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            if tensor is None or value.is_graph_input():
                continue
            stored += 0 if id(tensor) in seen else tensor.nbytes
            seen.add(id(tensor))
            stored += len(name) + _HEADER
            del graph.initializers[name]
    return stored + int(ir.to_proto(light).ByteSize())


_HEADER = 16  # bytes of an initializer beside its name and its data: type, extents and lengths


class Sink(Protocol):
    """What bytes can be written to."""

    def write(self, data: Any, /) -> int:
        """Take a bytes-like object and return how many bytes it holds."""


def write(tensor: ir.TensorProtocol, sink: Sink) -> None:
    """Write the tensor's little-endian bytes (as in `raw_data`) to `sink`; external data passes in small pieces."""
    tofile = getattr(tensor, "tofile", None)  # not part of the protocol, but all tensors of onnx_ir have it
    if tofile is not None:
        tofile(sink)
    else:
        sink.write(tensor.tobytes())
    drop_pages(getattr(tensor, "raw", None))


def drop_pages(holder: Any) -> None:
    """Take a memory-mapped file's pages out of this process's memory; they are read again when needed.

    A weight that was folded (transposed, say) is a view of the mapped file. Going through all weights of a model would
    otherwise leave all of it resident.

    Args:
        holder: an array that may lie in such a file, or whatever else holds a tensor's data.
    """
    import numpy as np

    while isinstance(holder, np.ndarray):
        holder = holder.base
    if isinstance(holder, memoryview):
        holder = holder.obj
    if isinstance(holder, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # where the system has it
        holder.madvise(mmap.MADV_DONTNEED)


def _of_node(node: ir.Node) -> Iterator[tuple[str, ir.TensorProtocol]]:
    import onnx_ir as ir

    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            continue
        where = f"{node.name or node.op_type}.{name}"
        if attribute.type == ir.AttributeType.TENSOR:  # as_tensor() would fail on a tensor without a type
            yield where, attribute.value
        elif attribute.type == ir.AttributeType.TENSORS:
            yield from ((where, tensor) for tensor in attribute.value)
