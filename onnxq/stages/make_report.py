"""make_report: all that a job did, in one Report."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from onnxq.graph.tensors import tensors, total_bytes
from onnxq.passes.manager import PassRecord
from onnxq.runtime.session import versions
from onnxq.stages.job import Job
from onnxq.stages.load import load
from onnxq.types.plan import Action, Plan
from onnxq.types.report import Report, Verification
from onnxq.types.statistics import Statistics

if TYPE_CHECKING:
    import onnx_ir as ir


def make_report(
    job: Job,
    made: Plan,
    quantized: ir.Model,
    *,
    found: Statistics,
    verification: Verification | None,
    records: Sequence[PassRecord],
) -> Report:
    """Gather what a job did.

    Args:
        job: with its prepared model. made: the plan. quantized: what was made by it.
        found: the statistics that the plan is based on. verification: None where the models were not run.
        records: of the passes that carried out the plan.
    """
    assert job.prepared is not None
    path = Path(job.source) if isinstance(job.source, str | Path) else None
    hashes = {} if path is None else {"source": _sha256(path)}
    data = None if job.opened is None else job.opened.sha256
    if data is not None:
        hashes["calibration"] = data
    if not made.constants and not any(decision.action is Action.QUANTIZE for decision in made.decisions):
        job.warnings.append("nothing was quantized: every node has its reason in the plan")
    checked = () if verification is None else verification.warnings
    return Report(
        source=None if path is None else str(path),
        output=None,
        float_bytes=total_bytes(job.model) if path is None else _size(path),
        quantized_bytes=total_bytes(quantized),
        plan=made,
        recipe=job.recipe.plain(),
        verification=verification,
        warnings=tuple(dict.fromkeys((*job.warnings, *made.warnings, *checked))),
        versions=versions(),
        hashes=hashes,
        seconds=dict(job.seconds),
        passes=tuple(asdict(record) for record in (*job.prepared.records, *records)),
        calibration={
            "source": job.ranges_from,
            "samples": found.samples,
            "tensors": len(found.tensors),
            "synthetic": found.synthetic,
        },
    )


def _size(path: Path) -> int:
    """Return the bytes of a model file and its external data."""
    import onnx_ir as ir

    data = {str(tensor.path) for _, tensor in tensors(load(path)) if isinstance(tensor, ir.ExternalTensor)}
    return sum(Path(file).stat().st_size for file in {str(path), *data})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
