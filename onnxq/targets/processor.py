"""Features of this machine's processor that decide which integer kernels onnxruntime chooses."""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxq.errors import RecipeError, nearest

if TYPE_CHECKING:
    from onnxq.targets import Target

# Linux' names of instruction sets in /proc/cpuinfo -> ours. Others decide nothing about 8-bit kernels.
_FLAGS = {
    "avx2": "avx2",
    "avx512bw": "avx512",
    "avx512_vnni": "avx512-vnni",
    "avx_vnni": "avx-vnni",
    "amx_int8": "amx-int8",
    "asimd": "neon",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
}
_EXACT = frozenset({"avx512-vnni", "avx-vnni", "amx-int8"})
_VARIABLE = "ONNXQ_PROCESSOR"
_ARCHITECTURES = {"x86_64": "x86-64", "amd64": "x86-64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Processor:
    """A processor.

    Attributes:
        name: model name, for the user.
        architecture: "x86-64", "arm64", or the system's name for it.
        features: the instruction sets above that it has; None where the system does not report them.
    """

    name: str
    architecture: str
    features: frozenset[str] | None

    @property
    def target(self) -> str:
        """Return the name of its CPU target.

        An unknown x86-64 processor counts as one without VNNI: plans for that are exact on every other too.
        """
        if self.architecture == "arm64":
            return "cpu-arm64"
        return "cpu-vnni" if _EXACT & (self.features or frozenset()) else "cpu-avx2"

    @property
    def kind(self) -> str:
        """Return its name among `PRETENDED`."""
        if self.target == "cpu-avx2":
            return "avx512" if "avx512" in (self.features or ()) else "avx2"
        return self.target.removeprefix("cpu-")

    def __str__(self) -> str:
        """Return `AMD EPYC (x86-64: avx2, avx512, avx512-vnni)`."""
        known = "features unknown" if self.features is None else ", ".join(sorted(self.features)) or "no vector units"
        return f"{self.name} ({self.architecture}: {known})"


PRETENDED = {
    "avx2": Processor(name="an AVX2 processor", architecture="x86-64", features=frozenset({"avx2"})),
    "avx512": Processor(name="an AVX-512 processor", architecture="x86-64", features=frozenset({"avx2", "avx512"})),
    "vnni": Processor(
        name="a VNNI processor", architecture="x86-64", features=frozenset({"avx2", "avx512", "avx512-vnni"})
    ),
    "arm64": Processor(name="an ARM processor", architecture="arm64", features=frozenset({"neon", "dotprod"})),
}
"""Values of `ONNXQ_PROCESSOR`: for emulators, whose processor /proc/cpuinfo does not describe, and for tests."""


@functools.cache
def this_processor() -> Processor:
    """Return the processor that counts as this machine's: the one that `ONNXQ_PROCESSOR` names, else the real one.

    Raises:
        RecipeError: `ONNXQ_PROCESSOR` names an unknown one.
    """
    pretended = os.environ.get(_VARIABLE)
    if not pretended:
        return real_processor()
    if pretended not in PRETENDED:
        raise RecipeError(f"unknown processor '{pretended}' in {_VARIABLE}{nearest(pretended, PRETENDED)}")
    return PRETENDED[pretended]


def is_here(target: Target) -> bool:
    """Return whether a target is that of the processor that counts as this machine's."""
    return (target.stands_for or target.name) == this_processor().target


def real_processor() -> Processor:
    """Return the processor of this machine, as /proc/cpuinfo describes it where there is one."""
    machine = platform.machine().lower()
    architecture = _ARCHITECTURES.get(machine, machine)
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Processor(name=platform.processor() or machine, architecture=architecture, features=None)
    return read_cpuinfo(text, architecture)


def read_cpuinfo(text: str, architecture: str) -> Processor:
    """Return the processor that the text of /proc/cpuinfo describes."""
    entries: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        entries.setdefault(key.strip().lower(), value.strip())
    flags = entries.get("flags", entries.get("features"))
    return Processor(
        name=entries.get("model name", architecture),
        architecture=architecture,
        features=None if flags is None else frozenset(_FLAGS[flag] for flag in flags.split() if flag in _FLAGS),
    )
