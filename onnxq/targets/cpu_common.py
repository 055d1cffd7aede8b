"""The part that all processors share: rows, formats and defaults of onnxruntime's CPU execution provider."""

from __future__ import annotations

from dataclasses import replace

from onnxq.targets import Row, Target
from onnxq.targets.cpu_codebook import ROWS as CODEBOOK_ROWS
from onnxq.targets.cpu_dynamic import DYNAMIC
from onnxq.targets.cpu_dynamic import ROWS as DYNAMIC_ROWS
from onnxq.targets.cpu_static import ROWS as STATIC_ROWS
from onnxq.targets.cpu_static import STATIC
from onnxq.targets.cpu_weight_only import FOUR_BITS
from onnxq.targets.cpu_weight_only import ROWS as WEIGHT_ONLY_ROWS
from onnxq.types.costs import Costs
from onnxq.types.format import Format

ROWS = STATIC_ROWS + WEIGHT_ONLY_ROWS + CODEBOOK_ROWS + DYNAMIC_ROWS


def cpu_target(name: str, summary: str, rows: tuple[Row, ...], timing: Costs, evidence: str) -> Target:
    """Return a target of the CPU execution provider.

    Args:
        name: of the target.
        summary: for the user.
        rows: its kernels.
        timing: its times.
        evidence: how its rows are known.
    """
    return Target(
        name=name,
        summary=summary,
        provider="CPUExecutionProvider",
        defaults={
            Format.QDQ: STATIC,
            Format.QOPERATOR: STATIC,
            Format.WEIGHT_ONLY: FOUR_BITS,
            Format.DYNAMIC: DYNAMIC,
        },
        timing=timing,
        rows=tuple(replace(row, evidence="; ".join(filter(None, (evidence, row.evidence)))) for row in rows),
    )
