"""Reading the graphs that emitters write, and a graph of two branches for them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tests.support.quantizing import Quantized, text

BRANCHES = text(
    "a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1) r = Relu (a) c = Conv (r, w2, b2) "
    "d = Conv <pads = [1, 1, 1, 1]> (x, w3) y = Add (c, d)",
    "float[1,3,8,8] x",
    "float[1,4,8,8] y",
    "float[6,3,3,3] w1, float[6] b1, float[4,6,1,1] w2, float[4] b2, float[4,3,3,3] w3",
)

FEEDS = {"x": np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)}


def lines(model: ir.Model) -> list[str]:
    """Each node as `output = Op (inputs)`, in graph order."""
    return [
        f"{', '.join(value.name for value in node.outputs)} = {node.op_type} "
        f"({', '.join('' if value is None else value.name for value in node.inputs)})"
        for node in model.graph
    ]


def initializers(done: Quantized) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in done.model.graph.initializers.items()}


def node(model: ir.Model, name: str) -> ir.Node:
    return next(entry for entry in model.graph if entry.name == name)
