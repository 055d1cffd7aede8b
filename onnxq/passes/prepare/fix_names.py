"""Give every node and value a unique name."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from onnxq.graph.names import take_name
from onnxq.passes import register_pass


@register_pass("fix-names", preserves_semantics=True)
class FixNames(ir.passes.InPlacePass):
    """Give every node a unique, stable, readable name, and every value a unique one.

    Exported names are kept; a node without one is called by its operator and place (`Conv_12`). Graph inputs and
    outputs keep their names, whoever else has them.

    Guards: the stock pass calls unnamed nodes `node`, `node_1`, ..., in graph order, so that a node further on can lose
    its exported name to an unnamed one; it names optional outputs that a node leaves out, which asks for them; and it
    lets the two branches of an If use one name, which statistics and plans could not tell apart.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Name nodes first, then values."""
        modified = False
        left_out: list[ir.Value] = []
        for scope in (model.graph, *model.graph.subgraphs()):
            modified |= _name_nodes(scope)
            left_out += [value for node in scope for value in node.outputs if not value.name and not value.uses()]
        left_out = [value for value in left_out if not value.is_graph_output()]
        for index, value in enumerate(left_out):  # a name of their own, so that the stock pass does not touch them
            value.name = f"\0{index}"
        modified |= common.NameFixPass()(model).modified
        modified |= _tell_scopes_apart(model)
        for value in left_out:
            value.name = ""
        return ir.passes.PassResult(model, modified=modified)


def _tell_scopes_apart(model: ir.Model) -> bool:
    """Give values of different scopes different names; the first one in graph order keeps its own."""
    modified = False
    values: list[ir.Value] = []
    for scope in (model.graph, *model.graph.subgraphs()):
        values += [*scope.inputs, *scope.initializers.values(), *(value for node in scope for value in node.outputs)]
    taken: dict[str, ir.Value] = {}
    everything = {value.name for value in values}
    for value in values:
        wanted = name = value.name or ""
        count = 1
        while (name and taken.get(name, value) is not value) or (name != wanted and name in everything):
            count += 1
            name = f"{wanted}_{count}"
        if name != wanted:
            value.name = name
            modified = True
        taken[name] = value
    return modified


def _name_nodes(graph: ir.Graph) -> bool:
    taken: set[str] = set()
    nameless: list[tuple[int, ir.Node]] = []
    for index, node in enumerate(graph):
        if node.name and node.name not in taken:
            taken.add(node.name)
        else:
            nameless.append((index, node))
    for index, node in nameless:
        node.name = take_name(node.name or f"{node.op_type}_{index}", taken)
    return bool(nameless)
