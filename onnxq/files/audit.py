"""What a model just loaded must be, checked without reading its weights."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

from onnxq.errors import ModelError
from onnxq.graph.tensors import tensors
from onnxq.graph.walk import scopes

if TYPE_CHECKING:
    import onnx_ir as ir

_NODES_AT_MOST = 1_000_000  # of a model whose local functions are inlined


def audit(model: ir.Model, what: str) -> None:
    """Check that every value which is read exists, that tensors hold what they declare, and that functions end.

    Args:
        model: the model as it was read.
        what: how to call it in messages.

    Raises:
        ModelError: the first fault found, with the node or tensor.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common

    for scope in scopes(model):
        _check_names(scope, what)
        _check_attributes(scope, what)
        _check_values(scope, what)
    for name, tensor in _each_once(model):
        _check_shape(name, tensor, what)
        if isinstance(tensor, ir.serde.TensorProtoTensor):
            _check_embedded(name, tensor, what)
    if model.functions:
        try:
            common.InlinePass().requires(model)
        except ir.passes.PreconditionError as error:
            raise ModelError(f"{what} is broken: {error}; a function must not call itself") from None
        except Exception as error:  # whatever the library makes of a damaged signature
            raise ModelError(f"{what} is damaged: its local functions: {error}; export the model again") from None
        size = _inlined(model)
        if size > _NODES_AT_MOST:  # forty functions that call the next one twice would keep the runtime busy for years
            raise ModelError(f"{what}: its local functions would become {size:,} nodes; inline them in the exporter")


def _inlined(model: ir.Model) -> int:
    """Return how many nodes the main graph has once all calls, which go in no circle, are replaced."""
    called: dict[ir.OperatorIdentifier | None, Counter[ir.OperatorIdentifier]] = {
        name: Counter(node.op_identifier() for node in function.all_nodes())
        for name, function in model.functions.items()
    }
    called[None] = Counter(node.op_identifier() for node in model.graph.all_nodes())
    sizes: dict[ir.OperatorIdentifier | None, int] = {}
    # In this order, and not by recursion: a chain of calls may be longer than Python's stack.
    before = {name: nodes.keys() & called.keys() for name, nodes in called.items()}
    for name in TopologicalSorter(before).static_order():
        sizes[name] = sum(sizes.get(each, 1) * count for each, count in called[name].items())
    return sizes[None]


def audit_external(model: ir.Model, what: str) -> None:
    """Check external data, its folder set: that it is there, inside the model's folder, and long enough.

    Raises:
        ModelError: the first fault found, with the tensor and the file.
    """
    import onnx_ir as ir

    for name, tensor in _each_once(model):
        if isinstance(tensor, ir.ExternalTensor):
            _check_external(name, tensor, what)


def _each_once(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    seen: set[int] = set()
    for name, tensor in tensors(model):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def _check_names(graph: ir.Graph, what: str) -> None:
    """Check that names are text: protobuf hands out bytes where they are not UTF-8."""
    for node in graph:
        values = [value.name for value in (*node.inputs, *node.outputs) if value is not None]
        for name in (node.op_type, node.domain, node.name, *node.attributes, *values):
            if name is not None and not isinstance(name, str):
                raise ModelError(f"{what} is damaged: the name {name!r} is not UTF-8 text; export the model again")


def _check_attributes(graph: ir.Graph, what: str) -> None:
    """Check that every attribute has a type: the graph library reads one without, and cannot write it."""
    import onnx_ir as ir

    for node in graph:
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.UNDEFINED:
                where = f"attribute {name!r} of node {node.name or node.op_type!r}"
                raise ModelError(f"{what} is damaged: {where} has no type; export the model again")


def _check_values(graph: ir.Graph, what: str) -> None:
    for node in graph:
        for value in node.inputs:
            if value is not None and _from_nowhere(value):
                raise ModelError(
                    f"{what} is broken: node {node.name or node.op_type!r} reads {value.name!r}, which no node, input "
                    "or initializer provides; export the model again"
                )
    for value in graph.outputs:
        if _from_nowhere(value):
            raise ModelError(f"{what} is broken: nothing provides its output {value.name!r}; export the model again")


def _from_nowhere(value: ir.Value) -> bool:
    return value.producer() is None and not value.is_graph_input() and not value.is_initializer()


def _check_shape(name: str, tensor: ir.TensorProtocol, what: str) -> None:
    import onnx_ir as ir

    if tensor.dtype == ir.DataType.UNDEFINED:
        raise ModelError(f"{what} is damaged: tensor {name!r} has no element type; export the model again")
    try:
        dims = tensor.shape.numpy()
    except (TypeError, ValueError):
        dims = (-1,)
    if any(dim < 0 for dim in dims):
        raise ModelError(f"{what} is damaged: tensor {name!r} has a negative dimension; export the model again")


def _check_external(name: str, tensor: ir.ExternalTensor, what: str) -> None:
    """Check that the data lies in the model's folder and is long enough; onnx_ir checks the place again later."""
    location, folder = os.fspath(tensor.location), Path(tensor.base_dir)
    path = folder / location
    where = f"tensor {name!r} of {what} keeps its data in {location!r}"
    lexical = Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder))
    if not lexical or not path.resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"{where}, which leads out of the model's folder and is not read; copy the real file into it")
    try:
        status = path.stat()
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise ModelError(f"{where}, which does not exist in {str(folder)!r}; put the file there") from None
    except OSError as error:
        raise ModelError(f"{where}, which cannot be read: {error.strerror}; check it and its permissions") from None
    if status.st_nlink > 1:  # onnx_ir refuses these too: a hard link gets round the containment check
        raise ModelError(f"{where}, which has several hard links and is not read; make it a copy of its own")
    needed = tensor.nbytes
    if tensor.length is not None and tensor.length != needed:
        raise ModelError(
            f"{where}: {tensor.length} bytes declared, but its shape and type need {needed}; export the model again"
        )
    offset = tensor.offset or 0
    if offset < 0 or status.st_size < offset + needed:
        raise ModelError(
            f"{where}, which is truncated: {offset + needed} bytes needed, {status.st_size} there; copy it again"
        )


def _check_embedded(name: str, tensor: ir.serde.TensorProtoTensor, what: str) -> None:
    """Check that as much data is there as shape and type say."""
    import onnx

    proto = tensor.raw
    if proto.HasField("raw_data"):
        unit, found, allowed = "bytes", len(proto.raw_data), {tensor.nbytes}
    else:
        field = onnx.helper.tensor_dtype_to_field(proto.data_type)
        unit, found = "elements", len(getattr(proto, field))
        parts = 2 if tensor.dtype.name.startswith("COMPLEX") else 1
        allowed = {tensor.size * parts, tensor.nbytes} if tensor.dtype.bitwidth < 8 else {tensor.size * parts}
    if found not in allowed:
        raise ModelError(
            f"{what} is damaged: tensor {name!r} holds {found} {unit}, its shape and type need {max(allowed)}; "
            "export the model again"
        )
