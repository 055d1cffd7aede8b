"""Random valid graphs: hypothesis draws the structure, a generator with a drawn seed the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tests.fuzz import operators

Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass(kw_only=True)
class Builder:
    """A graph under construction.

    Attributes:
        draw: hypothesis's. rng: for numbers. opset: of the ONNX domain. outer: names taken in enclosing graphs.
        nodes, initializers: so far. values: float tensors that nodes may read, with their shapes.
    """

    draw: Draw
    rng: np.random.Generator
    opset: int
    prefix: str = ""
    depth: int = 0
    nodes: list[Any] = field(default_factory=list)
    initializers: list[Any] = field(default_factory=list)
    values: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    weights: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    count: int = 0

    def name(self) -> str:
        """Return a name that nothing has yet."""
        self.count += 1
        return f"{self.prefix}v{self.count}"

    def pick(self, *choices: Any) -> Any:
        """Draw one of some values."""
        return self.draw(st.sampled_from(choices))

    def chance(self) -> bool:
        """Draw a coin."""
        return bool(self.draw(st.booleans()))

    def weight(self, shape: tuple[int, ...], spread: float = 0.5) -> str:
        """Return a normally distributed constant: a new initializer or Constant node, or one that is there already."""
        shared = [name for name, known in self.weights if known == shape]
        if shared and self.chance():
            return str(self.pick(*shared))
        array = self.rng.standard_normal(shape) * spread
        kind = self.pick("plain", "plain", "plain", "dead", "tiny", "wide")
        if kind == "dead" and array.ndim:
            array[:1] = 0
        array *= {"tiny": 1e-6, "wide": 30.0}.get(kind, 1.0)
        name = self.constant(array.astype(np.float32))
        self.weights.append((name, shape))
        return name

    def constant(self, array: np.ndarray) -> str:
        """Return the name of a constant."""
        name = self.name()
        tensor = numpy_helper.from_array(np.asarray(array), name)
        if self.pick(True, True, False):
            self.initializers.append(tensor)
        else:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        return name

    def node(self, op: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> list[str]:
        """Append a node, and return its outputs."""
        names = [self.name() for _ in range(outputs)]
        label = self.pick("", f"{op}_{self.count}")  # in a branch, perhaps a name of the outer graph
        self.nodes.append(helper.make_node(op, inputs, names, name=label, **attributes))
        return names

    def add(self, name: str, shape: tuple[int, ...]) -> None:
        """Make a value available to later nodes."""
        if 0 < math.prod(shape) <= 4096 and len(shape) <= 5:
            self.values.append((name, tuple(shape)))

    def value(self, test: Callable[[tuple[int, ...]], bool] = lambda shape: True) -> tuple[str, tuple[int, ...]] | None:
        """Draw a value whose shape passes, the latest ones first."""
        fitting = [entry for entry in self.values if test(entry[1])][-6:]
        return self.pick(*reversed(fitting)) if fitting else None

    def grow(self, count: int) -> None:
        """Append up to `count` operators."""
        for _ in range(count):
            makers = [make for make in operators.MAKERS if self.depth < 2 or make is not operators.if_]
            self.pick(*makers)(self)

    def branch(self, prefix: str) -> Builder:
        """Return a builder for a subgraph, which reads this graph's values and weights."""
        return Builder(
            draw=self.draw,
            rng=self.rng,
            opset=self.opset,
            prefix=f"{self.prefix}{prefix}",
            depth=self.depth + 1,
            values=list(self.values),
            weights=list(self.weights),
        )


SHAPES = ((1, 3, 8, 8), (2, 4, 6, 6), (1, 4, 16), (2, 5, 8), (1, 8), (3, 16), (2, 2, 3, 4), (1, 2, 4, 4, 4))


@st.composite
def graphs(draw: Draw) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a valid model of 1 to 20 operators, subgraphs not counted, and inputs for it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    opset = draw(st.sampled_from((9, 11, 12, 13, 14, 17, 18, 21)))
    builder = Builder(draw=draw, rng=rng, opset=opset)
    inputs, feeds = [], {}
    for index in range(draw(st.integers(1, 3))):
        shape = draw(st.sampled_from(SHAPES))
        name = f"x{index}"
        free = shape[0] == 1 and draw(st.booleans())  # constants further on may fix other extents
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N" if free else shape[0], *shape[1:]]))
        feeds[name] = rng.standard_normal(shape).astype(np.float32)
        builder.add(name, shape)
    builder.grow(draw(st.integers(1, 20)))
    made = [entry for entry in builder.values if entry[0] not in feeds] or builder.values
    outputs = {made[-1][0]: made[-1][1]}
    for _ in range(draw(st.integers(0, 2))):
        name, shape = draw(st.sampled_from(made))
        outputs[name] = shape
    declared = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * len(shape)) for name, shape in outputs.items()
    ]
    if draw(st.sampled_from((False, False, False, True))):  # as before IR version 4
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in builder.initializers]
    graph = helper.make_graph(builder.nodes, "fuzz", inputs, declared, builder.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 21 else 10)
    return model, feeds
