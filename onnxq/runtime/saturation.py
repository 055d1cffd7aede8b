"""Whether integer kernels saturate on this processor, found by running one."""

from __future__ import annotations

import functools
import shutil
import sys

_MODEL = """<ir_version: 8, opset_import: ["" : 13]>
g (uint8[1,2] a, int8[2,1] b) => (int32[1,1] y) { y = MatMulInteger (a, b) }"""
_EMULATOR = "valgrind"


@functools.cache
def adds_pairs() -> bool:
    """Return whether the runtime adds pairs of u8 x s8 products in 16 bits on the processor that it runs on.

    255 * 127 + 255 * 127 = 64770, or 32767 where the sum saturates (PMADDUBSW).
    """
    import numpy as np

    from onnxq.graph.text import model_from_text
    from onnxq.runtime.session import run_model

    feeds = {"a": np.full((1, 2), 255, np.uint8), "b": np.full((2, 1), 127, np.int8)}
    return int(run_model(model_from_text(_MODEL), feeds, optimize=True)["y"][0, 0]) != 2 * 255 * 127


def emulated_without_vnni(module: str, *arguments: str) -> list[str] | None:
    """Return the command that runs a Python module on an emulated processor with AVX2 and without VNNI; None if absent.

    Valgrind translates every instruction, and reports (by CPUID) AVX2 and nothing newer: the runtime chooses the
    kernels that it chooses there, and computes what they compute, 10 to 30 times as slowly.
    """
    emulator = shutil.which(_EMULATOR)
    if emulator is None:
        return None
    pretend = ["env", "ONNXQ_PROCESSOR=avx2"]  # /proc/cpuinfo still describes the real one
    return [*pretend, emulator, "--tool=none", "--quiet", sys.executable, "-m", module, *arguments]
