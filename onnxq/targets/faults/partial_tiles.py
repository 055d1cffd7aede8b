"""Products of 8-bit codes in kernels for VNNI and AMX, where rows, columns or depth do not fill whole tiles."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from onnxq.targets.faults import Case, Fault, WriteRequest, faults
from onnxq.targets.faults._texts import constant, model, numbers

_ROWS, _DEPTHS, _COLUMNS = (1, 2, 3, 4, 5, 6, 31, 32, 33), (27, 64, 72), (8, 24, 96)


def _multiplies(request: WriteRequest, activations: str, weights: str) -> bool:
    """Return whether an integer product of these types is to be written."""
    types = (request.activations.dtype.value, request.weights.dtype.value)
    quantized = bool(request.row.activations) and bool(request.slots)
    return request.node.op_type in ("MatMul", "Gemm", "Conv") and quantized and types == (activations, weights)


def _tails(activations: str, weights: str, *, largest: int) -> Iterator[Case]:
    """Yield MatMulInteger in all these shapes: one model of each depth and width, for every number of rows.

    Weights that are constants are packed when the model is loaded, others as it runs, by other code: both are tried.

    Args:
        activations: type of the activation's codes.
        weights: type of the weight's codes.
        largest: magnitude of int8 weights, 64 where pairs may saturate.
    """
    import numpy as np

    rng = numbers()
    for depth, columns, constant_weight in product(_DEPTHS, _COLUMNS, (True, False)):
        kind = np.dtype(weights)
        low, high = (0, 255) if kind == np.uint8 else (-largest, largest)
        weight = rng.integers(low, high + 1, (depth, columns)).astype(kind)
        body, inputs, right, feeds = [], [], [], {}
        for rows in _ROWS:
            x = rng.integers(np.iinfo(activations).min, np.iinfo(activations).max + 1, (rows, depth))
            feeds[f"x{rows}"] = x.astype(activations)
            inputs.append(f"{activations}[{rows},{depth}] x{rows}")
            body.append(f"y{rows} = MatMulInteger (x{rows}, w)")
            right.append(x @ weight.astype(np.int64))
        if not constant_weight:
            feeds["w"] = weight
            inputs.append(f"{weights}[{depth},{columns}] w")
        joined = ", ".join(f"y{rows}" for rows in _ROWS)
        text = model(
            f"{' '.join(body)} y = Concat <axis = 0> ({joined})",
            ", ".join(inputs),
            f"int32[{sum(_ROWS)},{columns}]",
            *((constant("w", weight),) if constant_weight else ()),
            opset=13,
        )
        yield Case(text=text, feeds=feeds, right=np.concatenate(right), error=0.0)


faults.add(
    "signed-tails",
    Fault(
        name="signed-tails",
        summary="products of uint8 by int8 are wrong in blocks of 32 rows that are not full",
        meets_request=lambda request: _multiplies(request, "uint8", "int8"),
        # Weights of at most 64, which are exact without VNNI, too.
        cases=lambda: _tails("uint8", "int8", largest=64),
        advice="give it uint8 weights, or take a newer onnxruntime",
        reported="https://github.com/microsoft/onnxruntime/issues/26324, of AMX up to 1.24",
    ),
)
faults.add(
    "unsigned-tails",
    Fault(
        name="unsigned-tails",
        summary="products of uint8 by uint8 are wrong in rows or columns that fill no whole tile",
        meets_request=lambda request: _multiplies(request, "uint8", "uint8"),
        cases=lambda: _tails("uint8", "uint8", largest=255),
        advice="give it int8 weights",
        reported="https://github.com/microsoft/onnxruntime/issues/27670, of AVX-VNNI and AMX up to 1.24",
    ),
)
