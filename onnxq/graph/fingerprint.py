"""Fingerprint: tells two models apart by what they compute, and nothing else."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Any

from onnxq.graph.tensors import write

if TYPE_CHECKING:
    import onnx_ir as ir


def fingerprint(model: ir.Model) -> str:
    """Return the sha256, as 64 hex digits, of the model's structure, names, attributes and weight bytes.

    Doc strings, metadata, producer, inferred shapes, and the order and storage of initializers (in the file, external,
    in memory) do not count. Big tensors are read in pieces, so memory stays bounded.
    """
    digest = _Digest()
    for domain, version in sorted(model.opset_imports.items()):
        digest.add("opset", domain, version)
    _graph(digest, model.graph)
    for identifier, function in sorted(model.functions.items()):
        digest.add("function", *identifier, *function.attributes)
        for domain, version in sorted(function.opset_imports.items()):
            digest.add("opset", domain, version)
        for attribute in function.attributes.values():
            _attribute(digest, attribute)
        _graph(digest, function.graph)
    return digest.hexdigest()


class _Digest:
    """A sha256 fed with marked and measured pieces, so that no two sequences of pieces read the same."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, *parts: str | int | float | bytes | None) -> None:
        """Add pieces; a str, the int and the float of equal value all differ."""
        for part in parts:
            data = _encode(part)
            self._hash.update(f"{type(part).__name__}:{len(data)}:".encode())
            self._hash.update(data)

    def write(self, data: Any) -> int:
        """Add raw bytes: the file interface that tensors write themselves to."""
        self._hash.update(data)
        return memoryview(data).nbytes

    def hexdigest(self) -> str:
        """Return the digest as hex digits."""
        return self._hash.hexdigest()


def _encode(part: str | int | float | bytes | None) -> bytes:
    match part:
        case None:
            return b""
        case bytes():
            return part
        case float():
            return struct.pack("<d", part)
        case _:
            return str(part).encode("utf-8", "surrogatepass")


def _graph(digest: _Digest, graph: ir.Graph) -> None:
    digest.add("graph", len(graph.inputs), len(graph.outputs), len(graph.initializers), len(graph))
    for value in graph.inputs:
        digest.add("input", value.name, str(value.type), _shape(value))
    for name, value in sorted(graph.initializers.items()):
        digest.add("initializer", name)
        if value.const_value is not None:
            _tensor(digest, value.const_value)
    for node in graph:
        _node(digest, node)
    for value in graph.outputs:
        digest.add("output", value.name, str(value.type), _shape(value))


def _node(digest: _Digest, node: ir.Node) -> None:
    digest.add("node", node.name, node.domain, node.op_type, node.overload)
    for side, values in (("in", node.inputs), ("out", node.outputs)):
        names = [None if value is None else value.name or None for value in values]
        while names and names[-1] is None:  # trailing empty slots mean the same as none
            names.pop()
        digest.add(side, len(names), *names)
    digest.add("attributes", len(node.attributes))
    for _, attribute in sorted(node.attributes.items()):
        _attribute(digest, attribute)


def _attribute(digest: _Digest, attribute: ir.Attr) -> None:
    import onnx_ir as ir

    kind = ir.AttributeType
    digest.add("attribute", attribute.name, attribute.type.name, attribute.ref_attr_name)
    if attribute.is_ref() or attribute.value is None:
        return
    value = attribute.value
    match attribute.type:
        case kind.GRAPH:
            _graph(digest, value)
        case kind.TENSOR:
            _tensor(digest, value)
        case kind.GRAPHS | kind.TENSORS:
            digest.add(len(value))
            for part in value:
                (_graph if attribute.type == kind.GRAPHS else _tensor)(digest, part)
        case kind.INTS | kind.FLOATS | kind.STRINGS:
            digest.add(len(value), *value)
        case kind.INT | kind.FLOAT | kind.STRING:
            digest.add(value)
        case _:
            digest.add(str(value))


def _tensor(digest: _Digest, tensor: ir.TensorProtocol) -> None:
    import onnx_ir as ir

    digest.add("tensor", tensor.dtype.name, *tensor.shape.numpy())
    if tensor.dtype == ir.DataType.STRING:
        digest.add(*(_text(item) for item in tensor.numpy().ravel().tolist()))
    elif tensor.size:
        write(tensor, digest)


def _text(item: str | bytes) -> bytes:
    return item if isinstance(item, bytes) else item.encode("utf-8", "surrogatepass")


def _shape(value: ir.Value) -> str:
    return "?" if value.shape is None else ",".join("?" if dim is None else str(dim) for dim in value.shape)
