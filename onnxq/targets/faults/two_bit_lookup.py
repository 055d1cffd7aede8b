"""GatherBlockQuantized of 2 bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnxq.targets.faults import Case, Fault, WriteRequest, faults
from onnxq.targets.faults._nodes import is_op
from onnxq.targets.faults._texts import constant, model

if TYPE_CHECKING:
    import onnx_ir as ir


def _meets_request(request: WriteRequest) -> bool:
    return request.row.kernel == "GatherBlockQuantized" and request.weights.dtype.stored_bits == 2


def _meets_node(node: ir.Node, _: int) -> bool:
    lookup = is_op(node, "GatherBlockQuantized", domain="com.microsoft")
    return lookup and node.attributes.get_int("bits", 4) == 2


def _cases() -> Iterator[Case]:
    import numpy as np

    constants = constant("q", np.full((2, 4), 0b11100100, np.uint8)), constant("s", np.ones((2, 1), np.float32))
    attributes = "bits = 2, block_size = 16, gather_axis = 0, quantize_axis = 1"
    body = f"y = com.microsoft.GatherBlockQuantized <{attributes}> (q, i, s)"
    text = model(body, "int64[1] i", "float[1,16]", *constants)
    yield Case(text=text, feeds={"i": np.array([1])}, right=np.tile([-2.0, -1.0, 0.0, 1.0], 4)[None])


faults.add(
    "two-bit-lookup",
    Fault(
        name="two-bit-lookup",
        summary="GatherBlockQuantized takes no codes of 2 bits: the model does not load",
        first="1.23.0",
        last="1.26",
        meets_request=_meets_request,
        meets_node=_meets_node,
        cases=_cases,
        advice="take 4 bits for the table, or a newer onnxruntime",
        reported="found here",
    ),
)
