"""onnxruntime's CPU execution provider on this machine. Every row is proven by its probe (tests/targets)."""

from __future__ import annotations

from onnxq.targets import Target, Timing, targets
from onnxq.targets.cpu_codebook import ROWS as CODEBOOK_ROWS
from onnxq.targets.cpu_dynamic import DYNAMIC
from onnxq.targets.cpu_dynamic import ROWS as DYNAMIC_ROWS
from onnxq.targets.cpu_static import ROWS as STATIC_ROWS
from onnxq.targets.cpu_static import STATIC
from onnxq.targets.cpu_weight_only import FOUR_BITS
from onnxq.targets.cpu_weight_only import ROWS as WEIGHT_ONLY_ROWS
from onnxq.types.format import Format

_DEFAULT_TIMING = Timing(
    quantize=0.07,
    dequantize=0.11,
    float_mac=1 / 60,
    quantized_mac=1 / 180,
    quantized_output=0.5,
    run_time_quantize=0.12,
    run_time_output=0.1,
    run_time_node=300.0,
    source="medians on one core of an x86-64 server with AVX-512 VNNI, onnxruntime 1.31.1",
)

targets.add(
    "cpu",
    Target(
        name="cpu",
        summary="onnxruntime's CPU execution provider on this machine",
        provider="CPUExecutionProvider",
        defaults={
            Format.QDQ: STATIC,
            Format.QOPERATOR: STATIC,
            Format.WEIGHT_ONLY: FOUR_BITS,
            Format.DYNAMIC: DYNAMIC,
        },
        timing=_DEFAULT_TIMING,
        rows=STATIC_ROWS + WEIGHT_ONLY_ROWS + CODEBOOK_ROWS + DYNAMIC_ROWS,
    ),
)
