"""Check that the runtime can load a model, without reading its weights; errors name the model's own nodes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from onnxq.errors import ModelError
from onnxq.runtime.session import open_session

if TYPE_CHECKING:
    import onnx_ir as ir

# Bytes; constants that the runtime may read while it loads a model (shapes, axes) are smaller.
_SMALL = 1024


def check_loads(model: ir.Model) -> None:
    """Load a model, with the optimizer off; its weights are not read unless something is wrong.

    Args:
        model: as `onnxq.files.load` returns it; unchanged.

    Raises:
        ModelError: the runtime cannot load it; nodes without a name are named by operator and output.
    """
    try:
        open_session(_without_weights(model), optimize=False)
    except ModelError:  # some kernels want their weights to be constants
        named = _named(model)
        try:
            open_session(named, optimize=False)
        except ModelError as error:
            raise ModelError(f"{error}{_place(str(error), named)}") from error


def _without_weights(model: ir.Model) -> ir.Model:
    """Return a copy whose large initializers are inputs, with their types and shapes."""
    light = model.clone()
    graph = light.graph
    listed = {*graph.inputs, *graph.outputs}
    for name, value in list(graph.initializers.items()):
        if value.const_value is not None and value.const_value.nbytes > _SMALL and value not in listed:
            value.dtype, value.shape = value.const_value.dtype, value.const_value.shape  # type: ignore[assignment]
            del graph.initializers[name]
            value.const_value = None
            graph.inputs.append(value)
    return light


def _named(model: ir.Model) -> ir.Model:
    """Return a copy in which every node has a name."""
    named = model.clone()
    for graph in named.graphs():
        for node in graph:
            node.name = node.name or f"the {node.op_type} that makes '{node.outputs[0].name}'"
    return named


def _place(text: str, model: ir.Model) -> str:
    """Return the node that a message is about if it names only the operator: "my.ops:Op(-1) is not ..."."""
    match = re.search(r"([\w.]*):(\w+)\(-?\d+\) is not a registered", text)
    if match is None:
        return ""
    for graph in model.graphs():
        for node in graph:
            if (node.domain, node.op_type) == match.groups():
                return f" (node {node.name})"
    return ""
