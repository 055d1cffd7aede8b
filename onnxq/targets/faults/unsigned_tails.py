"""Products of uint8 by uint8 in kernels for VNNI and AMX."""

from __future__ import annotations

from onnxq.targets.faults import Fault, Written, faults
from onnxq.targets.faults._products import tails

_OPERATORS = ("MatMul", "Gemm", "Conv")


def _written(what: Written) -> bool:
    both = what.activations.dtype.value == what.weights.dtype.value == "uint8"
    return what.node.op_type in _OPERATORS and bool(what.row.activations) and bool(what.slots) and both


faults.add(
    "unsigned-tails",
    Fault(
        name="unsigned-tails",
        summary="products of uint8 by uint8 are wrong in rows or columns that fill no whole tile",
        written=_written,
        cases=lambda: tails("uint8", "uint8", largest=255),
        advice="give it int8 weights",
        reported="https://github.com/microsoft/onnxruntime/issues/27670, of AVX-VNNI and AMX up to 1.24",
    ),
)
