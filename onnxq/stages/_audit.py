"""What a model just loaded must be, checked without reading its weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from onnxq.errors import ModelError
from onnxq.graph.tensors import tensors
from onnxq.graph.walk import scopes

if TYPE_CHECKING:
    import onnx_ir as ir


def audit(model: ir.Model, what: str) -> None:
    """Check a loaded model: every value that is read exists, every tensor's data is there and as long as declared.

    Args:
        model: the model, its external tensors' folders set.
        what: how to call it in messages.

    Raises:
        ModelError: the first fault found, with the node or tensor.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common

    for scope in scopes(model):
        _check_values(scope, what)
    _check_tensors(model, what)
    if model.functions:
        try:
            common.InlinePass().requires(model)
        except ir.passes.PreconditionError as error:
            raise ModelError(f"{what} is broken: {error}; a function must not call itself") from None


def _check_values(graph: ir.Graph, what: str) -> None:
    for node in graph:
        for value in node.inputs:
            if value is not None and _from_nowhere(value):
                raise ModelError(
                    f"{what} is broken: node '{node.name or node.op_type}' reads '{value.name}', which no node, input "
                    "or initializer provides; export the model again"
                )
    for value in graph.outputs:
        if _from_nowhere(value):
            raise ModelError(f"{what} is broken: nothing provides its output '{value.name}'; export the model again")


def _from_nowhere(value: ir.Value) -> bool:
    return value.producer() is None and not value.is_graph_input() and not value.is_initializer()


def _check_tensors(model: ir.Model, what: str) -> None:
    import onnx_ir as ir

    seen: set[int] = set()
    for name, tensor in tensors(model):
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        try:
            dims = tensor.shape.numpy()
        except (TypeError, ValueError):
            dims = (-1,)
        if any(dim < 0 for dim in dims):
            raise ModelError(f"{what} is damaged: tensor '{name}' has a negative dimension; export the model again")
        if isinstance(tensor, ir.ExternalTensor):
            _check_external(name, tensor, what)
        elif isinstance(tensor, ir.serde.TensorProtoTensor):
            _check_embedded(name, tensor, what)


def _check_external(name: str, tensor: ir.ExternalTensor, what: str) -> None:
    """Check that the data lies in the model's folder and is long enough; onnx_ir checks the place again later."""
    location, folder = os.fspath(tensor.location), Path(tensor.base_dir)
    path = folder / location
    where = f"tensor '{name}' of {what} keeps its data in '{location}'"
    lexical = Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder))
    if not lexical or not path.resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"{where}, which leads out of the model's folder and is not read; copy the real file into it")
    try:
        status = path.stat()
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise ModelError(f"{where}, which does not exist in '{folder}'; put the file there") from None
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
    import onnx_ir as ir

    if tensor.dtype == ir.DataType.UNDEFINED:
        raise ModelError(f"{what} is damaged: tensor '{name}' has no element type; export the model again")
    proto = tensor.raw
    if proto.HasField("raw_data") and len(proto.raw_data) != tensor.nbytes:
        raise ModelError(
            f"{what} is damaged: tensor '{name}' holds {len(proto.raw_data)} bytes, its shape and type need "
            f"{tensor.nbytes}; export the model again"
        )
