"""DequantizeLinear with blocks along axis 0 in front of a product: as it is written for any runtime."""

from __future__ import annotations

from collections.abc import Iterator

from onnxq.targets.faults import Case, Fault, WriteRequest, faults
from onnxq.targets.faults._texts import constant, model, numbers
from onnxq.types.scheme import PerBlock


def _meets_request(request: WriteRequest) -> bool:
    blocks = isinstance(request.weights.granularity, PerBlock) and request.row.kernel == "DequantizeLinear"
    summed = int(request.node.op_type == "Gemm" and request.node.attributes.get_int("transB", 0) != 0)
    return blocks and request.row.fused == "MatMulNBits" and summed == 0


def _cases() -> Iterator[Case]:
    import numpy as np

    rng = numbers()
    codes, scale = rng.integers(-8, 8, (64, 24)), rng.uniform(0.5, 1.5, (2, 24)).astype(np.float32)
    x = rng.standard_normal((3, 64)).astype(np.float32)
    pairs = (codes.ravel()[0::2] & 15) | (codes.ravel()[1::2] & 15) << 4
    declared = f"int4[64,24] q = {{{', '.join(map(str, pairs))}}}"
    body = "w = DequantizeLinear <axis = 0, block_size = 32> (q, s) y = MatMul (x, w)"
    right = x.astype(np.float64) @ (codes * np.repeat(scale.astype(np.float64), 32, axis=0))
    text = model(body, "float[3,64] x", "float[3,24]", declared, constant("s", scale), opset=21)
    yield Case(text=text, feeds={"x": x}, right=right, error=0.05)


faults.add(
    "blocks-along-rows",
    Fault(
        name="blocks-along-rows",
        summary="4-bit weights in blocks along axis 0 are computed wrongly once they become MatMulNBits",
        meets_request=_meets_request,
        cases=_cases,
        advice="leave `portable` out, or take 8 bits",
        reported="https://github.com/onnxsim/onnxsim/issues/749, of 1.29; not seen in any release",
    ),
)
