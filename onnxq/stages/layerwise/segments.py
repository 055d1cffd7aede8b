"""Segments: a graph run piece by piece, so that later pieces may depend on results of earlier ones.

Values that later nodes read are passed from segment to segment: all of them together cost one run of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from onnxq.graph.walk import subgraphs
from onnxq.runtime.session import open_session

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir


def open_segment(
    model: ir.Model, begin: int, end: int, threads: int
) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """Return a function that runs the nodes numbered `begin` to `end` - 1 on the values computed before them.

    The function returns the values that later nodes read, and the outputs of the last node.

    Args:
        model: the whole model.
        begin: number of the first node.
        end: number behind the last node.
        threads: intra-op threads.
    """
    import onnx_ir as ir

    nodes = list(model.graph)
    inside, later = nodes[begin:end], nodes[end:]
    computed = {value for node in inside for value in node.outputs}
    read = {value for node in inside for value in _read(node)}
    kept = {value for node in later for value in _read(node)} | set(nodes[end - 1].outputs if end else ())
    outputs = [value for node in inside for value in node.outputs if value in kept and value.name]
    inputs = [value for value in read - computed if value.name and not value.is_initializer()]
    names = {value.name for value in kept}
    if not inside or not outputs:
        return lambda state: {name: array for name, array in state.items() if name in names or not end}
    graph = ir.convenience.extract(model.graph, inputs, outputs)
    graph.opset_imports.update(model.graph.opset_imports)
    part = ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))
    session = open_session(part, threads=threads)

    def run(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        results = session.run({name: state[name] for name in session.inputs})
        return {name: array for name, array in {**state, **results}.items() if name in names}

    return run


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the values that a node reads, including those of the outer scope that its bodies read."""
    yield from (value for value in node.inputs if value is not None)
    for _, body in subgraphs(node):
        own = {value for inner in body for value in inner.outputs} | set(body.inputs)
        yield from (
            value for inner in body for value in _read(inner) if value not in own and not value.is_initializer()
        )
