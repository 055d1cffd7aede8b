"""Products of codes in shapes whose rows, columns and depth fill no whole tile of a kernel."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from onnxq.targets.faults import Case, WriteRequest
from onnxq.targets.faults._texts import constant, model, numbers

ROWS, DEPTHS, COLUMNS = (1, 2, 3, 4, 5, 6, 31, 32, 33), (27, 64, 72), (8, 24, 96)


def multiplies(what: WriteRequest, activations: str, weights: str) -> bool:
    """Return whether a product of codes of these types is to be written."""
    types = (what.activations.dtype.value, what.weights.dtype.value)
    quantized = bool(what.row.activations) and bool(what.slots)
    return what.node.op_type in ("MatMul", "Gemm", "Conv") and quantized and types == (activations, weights)


def tails(activations: str, weights: str, *, largest: int) -> Iterator[Case]:
    """Yield MatMulInteger in all these shapes: one model of each depth and width, for every number of rows.

    Weights that are constants are packed when the model is loaded, others as it runs, by other code: both are tried.

    Args:
        activations, weights: types of the codes. largest: magnitude of int8 weights, 64 where pairs may saturate.
    """
    import numpy as np

    rng = numbers()
    for depth, columns, held in product(DEPTHS, COLUMNS, (True, False)):
        kind = np.dtype(weights)
        low, high = (0, 255) if kind == np.uint8 else (-largest, largest)
        weight = rng.integers(low, high + 1, (depth, columns)).astype(kind)
        body, inputs, right, feeds = [], [], [], {}
        for rows in ROWS:
            x = rng.integers(np.iinfo(activations).min, np.iinfo(activations).max + 1, (rows, depth))
            feeds[f"x{rows}"] = x.astype(activations)
            inputs.append(f"{activations}[{rows},{depth}] x{rows}")
            body.append(f"y{rows} = MatMulInteger (x{rows}, w)")
            right.append(x @ weight.astype(np.int64))
        if not held:
            feeds["w"] = weight
            inputs.append(f"{weights}[{depth},{columns}] w")
        joined = ", ".join(f"y{rows}" for rows in ROWS)
        text = model(
            f"{' '.join(body)} y = Concat <axis = 0> ({joined})",
            ", ".join(inputs),
            f"int32[{sum(ROWS)},{columns}]",
            *((constant("w", weight),) if held else ()),
            opset=13,
        )
        yield Case(text=text, feeds=feeds, right=np.concatenate(right), error=0.0)
