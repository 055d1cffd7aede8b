"""Products of uint8 by uint8 in kernels for VNNI and AMX."""

from __future__ import annotations

from onnxq.targets.faults import Fault, faults
from onnxq.targets.faults._products import multiplies, tails

faults.add(
    "unsigned-tails",
    Fault(
        name="unsigned-tails",
        summary="products of uint8 by uint8 are wrong in rows or columns that fill no whole tile",
        written=lambda what: multiplies(what, "uint8", "uint8"),
        cases=lambda: tails("uint8", "uint8", largest=255),
        advice="give it int8 weights",
        reported="https://github.com/microsoft/onnxruntime/issues/27670, of AVX-VNNI and AMX up to 1.24",
    ),
)
