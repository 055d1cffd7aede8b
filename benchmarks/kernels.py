"""How fast products and convolutions run: as served, the kernel alone, and what the processor's instructions allow.

    python -m benchmarks.kernels [--markdown docs/benchmarks.md]

Operations are counted as everywhere: a multiplication and an addition are two. The limit is measured, by a loop of the
instruction that the kernels are made of on registers alone (compiled with `cc`; without one that column stays empty).
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxq
from onnxq.graph.text import model_from_text
from onnxq.runtime.profile import profile_nodes
from onnxq.runtime.session import open_session
from onnxq.runtime.timing import time_interleaved
from onnxq.targets.processor import this_processor
from rich.console import Console
from rich.table import Table

from benchmarks.measure import environment, write_section

SECTION = "kernels"
HEAD = ("operator", "type", "limit", "kernel", "served", "kernel of limit", "served of kernel", "served, speed")
LEGEND = """\
GOP/s on one thread. **limit**: a loop of the multiply-add instruction alone, on registers. **kernel**: the node of the
optimized graph, by onnxruntime's profiler. **served**: one call of the session, quantizing inputs and dequantizing
outputs included. **speed**: float time by int8 time. All of fastest runs."""

_LOOPS = 50_000
_CHAINS = 12  # independent sums: more than latency times throughput of the instruction
_SOURCE = """
#include <immintrin.h>
#define CHAINS 12
__attribute__((target("avx512f,avx512bw,avx512vnni"))) int vnni512(long n) {
  __m512i s[CHAINS], a = _mm512_set1_epi32((int)n | 3), b = _mm512_set1_epi32(0x01020304), t = _mm512_setzero_si512();
  for (int i = 0; i < CHAINS; i++) s[i] = _mm512_set1_epi32(i);
  for (long k = 0; k < n; k++)
    #pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) s[i] = _mm512_dpbusd_epi32(s[i], a, b);
  for (int i = 0; i < CHAINS; i++) t = _mm512_add_epi32(t, s[i]);
  return _mm512_reduce_add_epi32(t);
}
__attribute__((target("avx512f"))) int fma512(long n) {
  __m512 s[CHAINS], a = _mm512_set1_ps(1.0f / n), b = _mm512_set1_ps(0.5f), t = _mm512_setzero_ps();
  for (int i = 0; i < CHAINS; i++) s[i] = _mm512_set1_ps(i);
  for (long k = 0; k < n; k++)
    #pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) s[i] = _mm512_fmadd_ps(a, b, s[i]);
  for (int i = 0; i < CHAINS; i++) t = _mm512_add_ps(t, s[i]);
  return (int)_mm512_reduce_add_ps(t);
}
__attribute__((target("avx2"))) int pairs256(long n) {
  __m256i s[CHAINS], a = _mm256_set1_epi32((int)n | 3), b = _mm256_set1_epi32(0x01020304), o = _mm256_set1_epi16(1);
  __m256i t = _mm256_setzero_si256();
  for (int i = 0; i < CHAINS; i++) s[i] = _mm256_set1_epi32(i);
  for (long k = 0; k < n; k++)
    #pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) {
    __m256i p = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_xor_si256(a, s[i]), b), o);
    s[i] = _mm256_add_epi32(s[i], p);
  }
  for (int i = 0; i < CHAINS; i++) t = _mm256_add_epi32(t, s[i]);
  return _mm256_extract_epi32(t, 0);
}
__attribute__((target("avx2,fma"))) int fma256(long n) {
  __m256 s[CHAINS], a = _mm256_set1_ps(1.0f / n), b = _mm256_set1_ps(0.5f), t = _mm256_setzero_ps();
  for (int i = 0; i < CHAINS; i++) s[i] = _mm256_set1_ps(i);
  for (long k = 0; k < n; k++)
    #pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) s[i] = _mm256_fmadd_ps(a, b, s[i]);
  for (int i = 0; i < CHAINS; i++) t = _mm256_add_ps(t, s[i]);
  return (int)_mm256_cvtss_f32(t);
}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """GOP/s of one operator in one type, and its time in a call, milliseconds."""

    kernel: float
    served: float
    milliseconds: float


def limits() -> dict[str, float]:
    """Return GOP/s of float and int8 multiply-adds of this processor; {} where they cannot be measured."""
    compiler, features = shutil.which("cc"), this_processor().features or frozenset()
    if compiler is None or this_processor().architecture != "x86-64" or "avx2" not in features:
        return {}
    loops = {
        "float": ("fma512", 16) if "avx512" in features else ("fma256", 8),
        "int8": ("vnni512", 64) if "avx512-vnni" in features else ("pairs256", 32),
    }
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "peak.c", Path(folder) / "peak.so"
        source.write_text(_SOURCE, encoding="utf-8")
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        loaded = ctypes.CDLL(str(library))
        return {kind: _limit(getattr(loaded, name), lanes) for kind, (name, lanes) in loops.items()}


def _limit(loop: ctypes._NamedFuncPointer, lanes: int) -> float:
    loop.argtypes = [ctypes.c_long]
    best = float("inf")
    for _ in range(300):
        began = time.perf_counter()
        loop(_LOOPS)
        best = min(best, time.perf_counter() - began)
    return 2 * lanes * _CHAINS * _LOOPS / best / 1e9


def cases() -> Iterator[tuple[str, str, int]]:
    """Yield the name of a case, its model as text, and its multiply-adds."""
    head = '<ir_version: 9, opset_import: ["" : 13]>\n'
    for rows, summed, columns in ((128, 768, 768), (128, 768, 3072)):
        text = f"g (float[{rows},{summed}] x) => (float[] y)\n<float[{summed},{columns}] w>\n{{ m = MatMul (x, w) "
        yield f"MatMul {rows}x{summed}x{columns}", f"{head}{text} y = Flatten (m) }}", rows * summed * columns
    for channels, size, kernel in ((64, 56, 3), (128, 28, 3), (256, 28, 1), (512, 7, 3)):
        shape, weight = f"[1,{channels},{size},{size}]", f"[{channels},{channels},{kernel},{kernel}]"
        body = f"y = Conv <pads = [{', '.join([str(kernel // 2)] * 4)}]> (x, w)"
        text = f"g (float{shape} x) => (float[] y)\n<float{weight} w>\n{{ {body} }}"
        macs = channels * channels * size * size * kernel * kernel
        yield f"Conv {kernel}x{kernel}, {channels} channels, {size}x{size}", f"{head}{text}", macs


def measure(text: str, macs: int) -> dict[str, Speed]:
    """Time one operator in float and in int8, interleaved."""
    model = model_from_text(text)
    (value,) = model.graph.inputs
    assert value.shape is not None
    feeds = {"x": np.random.default_rng(0).uniform(0, 1, tuple(value.shape.numpy())).astype(np.float32)}
    quantized = onnxq.quantize(
        model, calibration=[feeds], calibrator="minmax", placement="everywhere", check=False
    ).model
    both = {"float": model, "int8": quantized}
    timing = time_interleaved([open_session(each) for each in both.values()], feeds, budget=8.0, min_rounds=40)
    found = {}
    for index, (kind, each) in enumerate(both.items()):
        longest = max(node.microseconds for node in profile_nodes(each, feeds, runs=200, fastest=True))
        milliseconds = timing.best_ms(index)
        found[kind] = Speed(
            kernel=2 * macs / longest / 1e3, served=2 * macs / milliseconds / 1e6, milliseconds=milliseconds
        )
    return found


def rows(results: dict[str, dict[str, Speed]], most: dict[str, float]) -> list[list[str]]:
    """One row a case and type."""
    return [
        [
            name,
            kind,
            f"{most[kind]:.0f}" if kind in most else "",
            f"{speed.kernel:.0f}",
            f"{speed.served:.0f}",
            f"{speed.kernel / most[kind]:.0%}" if kind in most else "",
            f"{speed.served / speed.kernel:.0%}",
            "" if kind == "float" else f"{found['float'].milliseconds / speed.milliseconds:.2f}x",
        ]
        for name, found in results.items()
        for kind, speed in found.items()
    ]


def markdown(table: Sequence[Sequence[str]]) -> str:
    """The table as Markdown, with where it comes from."""
    where = environment(("onnxruntime",))
    lines = [
        "## Products and convolutions against the processor's limit",
        "",
        f"{where.date}, {this_processor()}, onnxruntime {where.versions['onnxruntime']}, a machine shared with others.",
        "",
        "| " + " | ".join(HEAD) + " |",
        "|---|---" + "|---:" * (len(HEAD) - 2) + "|",
        *("| " + " | ".join(row) + " |" for row in table),
        "",
        LEGEND,
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and write it into a page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", type=Path)
    chosen = parser.parse_args(arguments)
    results = {name: measure(text, macs) for name, text, macs in cases()}
    found = rows(results, limits())
    table = Table(*HEAD)
    for row in found:
        table.add_row(*row)
    Console().print(table)
    if chosen.markdown is not None:
        write_section(chosen.markdown, SECTION, markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
