"""onnxruntime's CPU execution provider on x86-64 with VNNI or AMX: four products of u8 x s8 are added in 32 bits.

Every row is proven by its probe, and that its kernel is exact too (tests/targets).
"""

from __future__ import annotations

from onnxq.targets import targets
from onnxq.targets.cpu_common import ROWS, cpu_target
from onnxq.targets.evidence import proven
from onnxq.types.costs import Costs

VNNI = cpu_target(
    "cpu-vnni",
    "CPU with VNNI or AMX (Intel since 2019, AMD since Zen 4): 8-bit products are exact",
    ROWS,
    Costs(
        quantize=0.07,
        dequantize=0.11,
        float_mac=1 / 60,
        quantized_mac=1 / 180,
        quantized_output=0.5,
        run_time_quantize=0.12,
        run_time_output=0.1,
        run_time_node=300.0,
        source="medians on one core of an x86-64 server with AVX-512 VNNI, onnxruntime 1.31.1",
    ),
    proven("cpu-vnni"),
)
targets.add(VNNI.name, VNNI)
