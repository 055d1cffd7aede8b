"""Products of uint8 by int8 in kernels for VNNI and AMX, in rows and columns that fill no whole tile."""

from __future__ import annotations

from onnxq.targets.faults import Fault, faults
from onnxq.targets.faults._products import multiplies, tails

faults.add(
    "signed-tails",
    Fault(
        name="signed-tails",
        summary="products of uint8 by int8 are wrong in blocks of 32 rows that are not full",
        written=lambda what: multiplies(what, "uint8", "int8"),
        # Weights of at most 64, which are exact without VNNI, too.
        cases=lambda: tails("uint8", "int8", largest=64),
        advice="give it uint8 weights, or take a newer onnxruntime",
        reported="https://github.com/microsoft/onnxruntime/issues/26324, of AMX up to 1.24",
    ),
)
