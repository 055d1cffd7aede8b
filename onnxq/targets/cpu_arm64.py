"""onnxruntime's CPU execution provider on ARM with NEON: the same kernels by name, not run here yet.

Without dot-product instructions its kernels widen products to 16 bits and add pairs of them in 32 (SMULL, SADALP; Arm
Architecture Reference Manual), with them they add four in 32 (SDOT, UDOT), with i8mm eight (SMMLA, UMMLA): none of
these saturates while int8 weights leave out -128, which symmetric schemes do. int8 activations stay int8.
"""

from __future__ import annotations

from dataclasses import replace

from onnxq.targets import targets
from onnxq.targets.cpu_common import ROWS, cpu_target
from onnxq.targets.cpu_vnni import VNNI
from onnxq.targets.evidence import newest

ARM64 = cpu_target(
    "cpu-arm64",
    "ARM CPU (NEON; dot product and i8mm where it has them): 8-bit products are exact",
    tuple(replace(row, evidence="") for row in ROWS),
    replace(VNNI.timing, source="not measured: those of cpu-vnni"),
    f"read from the kernel table of onnxruntime {newest()}; not run",
)
targets.add(ARM64.name, ARM64)
