"""One row times 4-bit weights with zero points, in the kernel for AVX2."""

from __future__ import annotations

from collections.abc import Iterator

from onnxq.targets.faults import Case, Fault, Instead, WriteRequest, faults
from onnxq.targets.faults._texts import constant, model, numbers
from onnxq.types.accuracy import ROUNDS


def _meets_request(request: WriteRequest) -> bool:
    product = request.row.kernel == "MatMulNBits" and request.accuracy_level == ROUNDS
    return product and request.weights.dtype.stored_bits == 4 and not request.weights.symmetric


def _cases() -> Iterator[Case]:
    import numpy as np

    rng = numbers()
    for block in (16, 32, 64, 128):
        codes, zero_points = rng.integers(0, 16, (96, 256 // block, block)), rng.integers(0, 16, (96, 256 // block))
        x = rng.standard_normal((1, 256)).astype(np.float32)
        packed = (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8)
        both = (zero_points[:, 0::2] | zero_points[:, 1::2] << 4).astype(np.uint8)
        scale = np.ones(zero_points.shape, np.float32)
        attributes = f"K = 256, N = 96, bits = 4, block_size = {block}, accuracy_level = {ROUNDS}"
        body = f"y = com.microsoft.MatMulNBits <{attributes}> (x, q, s, z)"
        constants = constant("q", packed), constant("s", scale), constant("z", both)
        right = x.astype(np.float64) @ (codes - zero_points[..., None]).reshape(96, 256).T
        text = model(body, "float[1,256] x", "float[1,96]", *constants)
        yield Case(text=text, feeds={"x": x}, right=right, error=0.05)


faults.add(
    "one-row-4-bits",
    Fault(
        name="one-row-4-bits",
        summary="one row times 4-bit weights with zero points is wrong in the kernel for AVX2",
        meets_request=_meets_request,
        cases=_cases,
        instead=(Instead(text="without zero points", symmetric=True),),
        advice="take weights without zero points",
        reported="https://github.com/microsoft/onnxruntime/issues/29853, of AVX2; not seen in any release",
    ),
)
