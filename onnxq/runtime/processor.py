"""What this processor can do with 8-bit integers, as far as results depend on it."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

# Each of these adds four products of u8 x s8 in 32 bits; without any, x86 adds pairs in 16 bits, which saturate.
_EXACT = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})


def saturates() -> bool | None:
    """Whether u8 x s8 integer kernels saturate on this processor; None if that cannot be told.

    Source: Intel 64 and IA-32 Architectures Software Developer's Manual, PMADDUBSW ("adds adjacent pairs ... packs the
    saturated result") against VPDPBUSD.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    flags = _flags()
    return not flags & _EXACT if flags else None


@functools.cache
def _flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split())
