"""Taps: values inside a model, read while it runs."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from onnxq.errors import CalibrationError, nearest
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
            tensors: names of values of the main graph: node outputs, graph inputs.
            optimize: whether onnxruntime optimizes around the taps.
            threads: intra-op threads, 0 for all cores.

        Raises:
            CalibrationError: no such tensor.
            ModelError: onnxruntime cannot load the model.
        """
        self.tensors = in_graph_order(model, tensors)
        values = _values(model, self.tensors)
        self._inputs = tuple(name for name in self.tensors if values[name].is_graph_input())
        inner = [name for name in self.tensors if name not in self._inputs]
        # numpy has no name for these, and the runtime will not hand them out.
        foreign = [name for name in inner if _is_foreign(values[name].dtype)]
        self._outputs = dict(zip(inner, inner, strict=True)) | {name: f"{name}//float" for name in foreign}
        self._session: Session | None = None
        if inner:
            shown = _widened(model, foreign) if foreign else model
            outputs = list(self._outputs.values())
            # The runtime's plan of its memory counts values that outlive the run twice.
            self._session = open_session(
                shown, optimize=optimize, threads=threads, outputs=outputs, memory_pattern=False
            )

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once and return the tapped tensors, bfloat16 as float32; a tapped graph input is a copy of what was fed.

        Raises:
            ModelError: the runtime cannot run the model on these arrays.
        """
        taken = {name: feeds[name].copy() for name in self._inputs}
        if self._session is not None:
            found = self._session.run(feeds)
            taken |= {name: found.pop(output) for name, output in self._outputs.items()}
        return taken


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
) -> list[dict[str, tuple[int, ...]]]:
    """Return the shape that each tensor has in each of some runs.

    Read off the inferred shapes where these suffice; where not, the model runs and tells the shapes alone, so that the
    tensors need not be alive together.

    Args:
        model: the model. tensors: as `in_graph_order` returns them. runs: for each run an array for every input.

    Raises:
        ModelError: onnxruntime cannot load or run the model.
    """
    values = _values(model, tensors)
    session: Session | None = None
    found = []
    for feeds in runs:
        extents = _extents(model, feeds)
        shapes = {name: _inferred(value, extents) for name, value in values.items()}
        if None in shapes.values():
            session = session or _shape_session(model, tensors)
            told = session.run(feeds, [f"{name}//shape" for name, shape in shapes.items() if shape is None])
            shapes |= {name.removesuffix("//shape"): tuple(shape.tolist()) for name, shape in told.items()}
        found.append({name: shape for name, shape in shapes.items() if shape is not None})
    return found


def tensor_bytes(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return how many bytes tensors of these shapes take, by name; 4 for a value whose type is not known."""
    dtypes = {name: value.dtype for name, value in _values(model, shapes).items()}
    return {
        name: math.prod(shape) * max(1, int(4 if (dtype := dtypes[name]) is None else dtype.itemsize))
        for name, shape in shapes.items()
    }


def _shape_session(model: ir.Model, tensors: Collection[str]) -> Session:
    """Return a session whose outputs are the tensors' shapes, `<name>//shape`."""
    import onnx_ir as ir

    probe = model.clone()
    for name, value in _values(probe, tensors).items():
        node = ir.node("Shape", [value])
        node.outputs[0].name = f"{name}//shape"
        probe.graph.append(node)
    return open_session(probe, optimize=False, threads=1, outputs=[f"{name}//shape" for name in tensors])


def _is_foreign(dtype: ir.DataType | None) -> bool:
    return dtype is not None and dtype.is_floating_point() and dtype.name not in ("FLOAT", "DOUBLE", "FLOAT16")


def _widened(model: ir.Model, names: Collection[str]) -> ir.Model:
    """Return a copy with a float32 form of some values beside them, `<name>//float`."""
    import onnx_ir as ir

    copy = model.clone()
    for name, value in _values(copy, names).items():
        node = ir.node("Cast", [value], attributes={"to": int(ir.DataType.FLOAT)})
        node.outputs[0].name = f"{name}//float"
        copy.graph.append(node)
    return copy


def _values(model: ir.Model, tensors: Collection[str]) -> dict[str, ir.Value]:
    known = _known(model)
    return {name: known[name] for name in tensors}


def _known(model: ir.Model) -> dict[str, ir.Value]:
    """Return what the main graph is fed with or computes, in order."""
    asked = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    computed = [value for node in model.graph for value in node.outputs]
    return {value.name: value for value in (*asked, *computed) if value.name}


def _extents(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return the extents that the named dimensions of the inputs have in `feeds`."""
    found: dict[str, int] = {}
    for value in model.graph.inputs:
        if value.name is not None and value.name in feeds and value.shape is not None:
            for dim, extent in zip(value.shape, feeds[value.name].shape, strict=False):
                if not isinstance(dim, int) and dim.value is not None:
                    found[str(dim.value)] = extent
    return found


def _inferred(value: ir.Value, extents: Mapping[str, int]) -> tuple[int, ...] | None:
    if value.shape is None:
        return None
    shape = [dim if isinstance(dim, int) else extents.get(str(dim.value)) for dim in value.shape]
    known = tuple(extent for extent in shape if extent is not None)
    return known if len(known) == len(shape) else None
