"""Walking a model's nodes, subgraphs included, each with a path name that is unique in the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnxq.graph.names import take_name

if TYPE_CHECKING:
    import onnx_ir as ir


def nodes(model: ir.Model) -> Iterator[tuple[str, ir.Node]]:
    """Yield every node of the main graph and of all subgraphs with its path name, depth first, in graph order.

    A node of the main graph is called by its own name, a node of a subgraph `outer/branch_attribute/inner`. A node
    without a name is called by its operator and its place (`Conv_12`), a name that was already given gets `_2`, `_3`...
    The names are stable: they depend on nothing but the model. Bodies of local functions are not visited.
    """
    yield from _scope(model.graph, "", set())


def top_level(model: ir.Model) -> Iterator[tuple[str, ir.Node]]:
    """Yield the nodes of the main graph alone, named as `nodes` names them."""
    return ((path, node) for path, node in nodes(model) if node.graph is model.graph)


def scopes(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield every graph of the model: the main graph and the bodies of functions, each followed by its subgraphs."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        yield graph
        yield from graph.subgraphs()


def bodies(model: ir.Model) -> dict[ir.Graph, ir.Node | None]:
    """Return the main graph (with None) and every graph in it with the node that holds it, outer ones first."""
    owners: dict[ir.Graph, ir.Node | None] = {model.graph: None}
    todo = [model.graph]
    while todo:
        for node in todo.pop():
            inner = {graph: node for _, graph in subgraphs(node)}
            owners |= inner
            todo += inner
    return owners


def subgraphs(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    """Yield the graphs that a node holds, each with its attribute's name (`cases_0` where it holds several)."""
    import onnx_ir as ir

    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield name, attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from ((f"{name}_{index}", graph) for index, graph in enumerate(attribute.as_graphs()))


def input_at(node: ir.Node, slot: int | None) -> ir.Value | None:
    """Return an input of a node, None where it is left out, or where no slot is given."""
    return node.inputs[slot] if slot is not None and slot < len(node.inputs) else None


def _scope(graph: ir.Graph, prefix: str, given: set[str]) -> Iterator[tuple[str, ir.Node]]:
    for index, node in enumerate(graph):
        path = take_name(f"{prefix}{node.name or f'{node.op_type}_{index}'}", given)
        yield path, node
        for branch, inner in subgraphs(node):
            yield from _scope(inner, f"{path}/{branch}/", given)
