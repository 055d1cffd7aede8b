"""Where rows were proven: versions of onnxruntime and processors on which every row was tried, and their faults.

`evidence.json` beside this file is written by `python docs/generate_targets.py --record`, on each machine and with each
version once; rows and docs/targets.md quote it.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path

from onnxq.errors import PlanError
from onnxq.targets.processor import Processor
from onnxq.types.plain_data import from_plain

FILE = Path(__file__).with_name("evidence.json")
_BEST = ("amx-int8", "avx512-vnni", "avx-vnni", "avx512", "avx2", "i8mm", "dotprod", "neon")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """One run of all probes.

    Attributes:
        onnxruntime: version.
        processor: its newest instruction set for 8-bit products.
        target: whose rows were tried.
        masked: whether a newer processor was made to look like it.
        date: of the run.
        claims: how many were tried.
        changed: operators and formats of the claims that do not hold.
        faults: names of the faults that it has.
        absent: names of the faults that were tried and not seen.
    """

    onnxruntime: str
    processor: str
    target: str
    masked: bool
    date: str
    claims: int
    changed: tuple[str, ...]
    faults: tuple[str, ...]
    absent: tuple[str, ...]

    @property
    def key(self) -> tuple[tuple[int, ...], str]:
        """Return the key of its place in the order: version and processor."""
        return tuple(int(part) for part in re.findall(r"\d+", self.onnxruntime)), self.processor


def newest_instructions(processor: Processor) -> str:
    """Return the newest instruction set for 8-bit products that a processor has, "unknown" if nothing is known."""
    return next((name for name in _BEST if name in (processor.features or ())), "unknown")


@functools.cache
def evidence() -> tuple[Evidence, ...]:
    """Return the recorded runs, by version and processor.

    Raises:
        PlanError: the file is not of this form.
    """
    data = json.loads(FILE.read_text(encoding="utf-8"))
    runs = (from_plain(Evidence, entry, what=f"'{FILE}'", error=PlanError) for entry in data)
    return tuple(sorted(runs, key=lambda entry: entry.key))


def proven(target: str) -> str:
    """Return where all rows of a target hold, in words; empty if nowhere."""
    by_processor: dict[str, list[str]] = {}
    for entry in evidence():
        if entry.target == target and not entry.changed:
            processor = f"{entry.processor}{' (masked)' if entry.masked else ''}"
            by_processor.setdefault(processor, []).append(entry.onnxruntime)
    parts = (f"{processor}, onnxruntime {_span(versions)}" for processor, versions in by_processor.items())
    return f"probed on {'; '.join(parts)}" if by_processor else ""


def newest() -> str:
    """Return the newest version of onnxruntime that was tried."""
    return evidence()[-1].onnxruntime if evidence() else "unknown"


def _span(versions: list[str]) -> str:
    return versions[0] if len(versions) == 1 else f"{versions[0]} to {versions[-1]}"
