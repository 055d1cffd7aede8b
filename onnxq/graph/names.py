"""Names: those that values have, and those that nothing in a graph has yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


def name_of(value: ir.Value | None) -> str:
    """Return a value's name, "" for one without, and for an input that is left out."""
    return "" if value is None or value.name is None else value.name


def take_name(wanted: str, taken: set[str], *, second: int = 2, following: dict[str, int] | None = None) -> str:
    """Return `wanted`, or its first numbered variant that is free, and add it to `taken`.

    Args:
        wanted: the name.
        taken: names in use.
        second: number of the first variant: `wanted_2`.
        following: by name, the number that the next variant is tried with; kept up to date. Many takers of one name
            share it, so that each tries few.
    """
    following = {} if following is None else following
    name, number = wanted, following.get(wanted, second)
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    taken.add(name)
    following[wanted] = number
    return name


def names(graph: ir.Graph) -> set[str]:
    """Return the names of all nodes and values of a graph and of the graphs in it."""
    used: set[str | None] = set()
    for scope in (graph, *graph.subgraphs()):
        used.update(value.name for value in scope.inputs)
        used.update(scope.initializers)
        for node in scope:
            used.update((node.name, *(value.name for value in node.outputs)))
    return {name for name in used if name}
