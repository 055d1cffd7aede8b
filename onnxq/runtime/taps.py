"""Taps: values inside a model, read while it runs."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxq.errors import CalibrationError, nearest
from onnxq.graph.hoist import hoist, is_repeated, why_hidden
from onnxq.graph.walk import bodies
from onnxq.runtime.session import Session, open_session

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir


class Taps:
    """One session whose outputs are the tapped tensors. Several threads may run it at the same time.

    Attributes:
        tensors: the tapped tensors, in graph order.
    """

    def __init__(self, model: ir.Model, tensors: Collection[str], *, optimize: bool = True, threads: int = 1) -> None:
        """Open the session.

        Args:
            model: left as it is.
            tensors: names of graph inputs, node outputs, and inputs of bodies of Loop and Scan.
            optimize: whether onnxruntime optimizes around the taps.
            threads: intra-op threads, 0 for all cores.

        Raises:
            CalibrationError: no such tensor, or one that cannot be tapped where it is.
            ModelError: onnxruntime cannot load the model.
        """
        self.tensors = in_graph_order(model, tensors)
        values = _values(model, self.tensors)
        inputs = set(model.graph.inputs)
        self._inputs = tuple(name for name in self.tensors if values[name] in inputs)
        self._inner = {name for name in self.tensors if values[name].graph is not model.graph}
        computed = [name for name in self.tensors if name not in self._inputs]
        # numpy lacks these types, and the runtime does not return them.
        foreign = [name for name in computed if name not in self._inner and _is_foreign(values[name].dtype)]
        self._outputs = {name: f"{name}//all" if name in self._inner else name for name in computed}
        self._outputs |= {name: f"{name}//float" for name in foreign}
        self._session: Session | None = None
        if computed:
            tapped = _hoisted(model, self._inner, "") if self._inner else model
            tapped = _widened(tapped, foreign) if foreign else tapped
            outputs = list(self._outputs.values())
            # The runtime's plan of its memory counts values that outlive the run twice.
            self._session = open_session(
                tapped, optimize=optimize, threads=threads, outputs=outputs, memory_pattern=False
            )

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
        """Run once and return the values of the tapped tensors, one array for each time that they were computed.

        A tensor of the main graph is computed once, one of a body as often as the body ran. bfloat16 becomes float32; a
        tapped graph input is a copy of its feed.

        Raises:
            ModelError: the runtime cannot run the model on these arrays.
        """
        values = {name: [feeds[name].copy()] for name in self._inputs}
        if self._session is not None:
            outputs: dict[str, Any] = self._session.run(feeds)
            for name, output in self._outputs.items():
                array = outputs.pop(output)
                values[name] = array if name in self._inner else [array]
        return values


def in_graph_order(model: ir.Model, tensors: Collection[str]) -> tuple[str, ...]:
    """Return the tensors, each once, in the order in which the model computes them.

    Raises:
        CalibrationError: no such tensor.
    """
    wanted = set(tensors)
    known = _known(model)
    for name in tensors:
        if name not in known:
            raise CalibrationError(f"the model computes no tensor '{name}'{nearest(name, known)}")
    return tuple(name for name in known if name in wanted)


def tensor_shapes(
    model: ir.Model, tensors: Collection[str], runs: Iterable[Mapping[str, np.ndarray]]
) -> list[dict[str, list[tuple[int, ...]]]]:
    """Return the shapes that each tensor has in each of some runs, one for every time that it is computed.

    Read off the inferred shapes where these suffice. Otherwise, and for what bodies compute, the model runs and returns
    shapes alone, so that the tensors need not be alive together.

    Args:
        model: the model.
        tensors: as `in_graph_order` returns them.
        runs: for each run an array for every input.

    Raises:
        ModelError: onnxruntime cannot load or run the model.
    """
    values = _values(model, tensors)
    session: Session | None = None
    results = []
    for feeds in runs:
        extents = _extents(model, feeds)
        inferred = {
            name: _inferred(value, extents) if value.graph is model.graph else None for name, value in values.items()
        }
        shapes = {name: [shape] for name, shape in inferred.items() if shape is not None}
        missing = [name for name in values if name not in shapes]
        if missing:
            session = session or _shape_session(model, tensors)
            outputs = {
                name: f"{name}//shape" if values[name].graph is model.graph else f"{name}//all" for name in missing
            }
            returned: dict[str, Any] = session.run(feeds, list(outputs.values()))
            for name, output in outputs.items():
                each = [returned[output]] if values[name].graph is model.graph else returned[output]
                # What comes out of Scan is stacked: one shape a row.
                rows = (row for shape in each for row in (shape if shape.ndim > 1 else [shape]))
                shapes[name] = [tuple(row.tolist()) for row in rows]
        results.append({name: shapes[name] for name in values})
    return results


def tensor_bytes(model: ir.Model, shapes: Mapping[str, Iterable[Sequence[int]]]) -> dict[str, int]:
    """Return how many bytes tensors of these shapes take, by name; 4 for a value whose type is not known."""
    dtypes = {name: value.dtype for name, value in _values(model, shapes).items()}
    return {
        name: sum(map(math.prod, each)) * max(1, int(4 if (dtype := dtypes[name]) is None else dtype.itemsize))
        for name, each in shapes.items()
    }


def are_repeated(model: ir.Model, tensors: Collection[str]) -> bool:
    """Return whether any of the tensors may be computed several times in one run."""
    repeated = is_repeated(model)
    return any(value.graph in repeated for value in _values(model, tensors).values())


def _shape_session(model: ir.Model, tensors: Collection[str]) -> Session:
    """Return a session whose outputs are the tensors' shapes: `<name>//shape`, of those of bodies `<name>//all`."""
    values = _values(model, tensors)
    inner = {name for name in tensors if values[name].graph is not model.graph}
    probe = _hoisted(model, inner, "Shape") if inner else model.clone()
    for name, value in _values(probe, [name for name in tensors if name not in inner]).items():
        _beside(value, "Shape", f"{name}//shape")
    outputs = [f"{name}//all" if name in inner else f"{name}//shape" for name in tensors]
    return open_session(probe, optimize=False, threads=1, outputs=outputs)


def _hoisted(model: ir.Model, tensors: Collection[str], op: str) -> ir.Model:
    """Return a copy where `<name>//all` is the sequence of all values of a body's tensor, `op` applied to each.

    Raises:
        CalibrationError: a tensor cannot be hoisted out of its body.
    """
    copy = model.clone()
    hidden = why_hidden(copy)
    wanted = {}
    for name, value in _values(copy, tensors).items():
        if value.graph in hidden:
            raise CalibrationError(f"'{name}': {hidden[value.graph]}; keep its node in float")
        wanted[f"{name}//all"] = _beside(value, op, f"{name}//{op}") if op else value
    hoist(copy, wanted)
    return copy


def _beside(value: ir.Value, op: str, name: str, attributes: Mapping[str, Any] | None = None) -> ir.Value:
    """Add an operator that reads `value`, in its graph; return its output."""
    import onnx_ir as ir

    node = ir.node(op, [value], attributes=attributes)
    result = node.outputs[0]
    result.name = name
    if op == "Shape":
        result.type = ir.TensorType(ir.DataType.INT64)
    graph = value.graph
    assert isinstance(graph, ir.Graph)
    graph.append(node)
    return result


def _is_foreign(dtype: ir.DataType | None) -> bool:
    return dtype is not None and dtype.is_floating_point() and dtype.name not in ("FLOAT", "DOUBLE", "FLOAT16")


def _widened(model: ir.Model, names: Collection[str]) -> ir.Model:
    """Return a copy with a float32 form of some values beside them, `<name>//float`."""
    import onnx_ir as ir

    copy = model.clone()
    for name, value in _values(copy, names).items():
        _beside(value, "Cast", f"{name}//float", {"to": int(ir.DataType.FLOAT)})
    return copy


def _values(model: ir.Model, tensors: Collection[str]) -> dict[str, ir.Value]:
    known = _known(model)
    return {name: known[name] for name in tensors}


def _known(model: ir.Model) -> dict[str, ir.Value]:
    """Return what the model is fed with or computes, in graph order; the first of a name where several have one."""
    fed = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    values = {value.name: value for value in fed if value.name}
    for graph in bodies(model):
        computed = [value for node in graph for value in node.outputs]
        for value in computed if graph is model.graph else (*graph.inputs, *computed):
            if value.name:
                values.setdefault(value.name, value)
    return values


def _extents(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return the extents that the named dimensions of the inputs have in `feeds`."""
    extents: dict[str, int] = {}
    for value in model.graph.inputs:
        if value.name is not None and value.name in feeds and value.shape is not None:
            for dim, extent in zip(value.shape, feeds[value.name].shape, strict=False):
                if not isinstance(dim, int) and dim.value is not None:
                    extents[str(dim.value)] = extent
    return extents


def _inferred(value: ir.Value, extents: Mapping[str, int]) -> tuple[int, ...] | None:
    if value.shape is None:
        return None
    shape = [dim if isinstance(dim, int) else extents.get(str(dim.value)) for dim in value.shape]
    known = tuple(extent for extent in shape if extent is not None)
    return known if len(known) == len(shape) else None
