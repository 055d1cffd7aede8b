"""make_report: all that a job did, in one Report."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

from onnxq.diagnose import planned
from onnxq.files.load import file_bytes
from onnxq.graph.tensors import stored_bytes
from onnxq.pipeline.job import Job
from onnxq.pipeline.why_empty import about_empty
from onnxq.runtime.session import versions
from onnxq.tuning.draft import Draft, is_empty
from onnxq.types.guarding import Guarding
from onnxq.types.report import Report, Verification
from onnxq.types.searching import Searching
from onnxq.types.statistics import Statistics


def make_report(
    job: Job,
    draft: Draft,
    *,
    found: Statistics,
    verification: Verification | None,
    guarding: Guarding | None,
    searching: Searching | None = None,
) -> Report:
    """Gather what a job did.

    Args:
        job: with its prepared model. draft: the result, with its recipe and plan.
        found: the statistics that the plan is based on. verification: None where the models were not run.
        guarding, searching: what a guard and a search did, None if there was none.
    """
    made = draft.plan
    assert job.prepared is not None
    path = Path(job.source) if isinstance(job.source, str | Path) else None
    hashes = {} if path is None else {"source": _sha256(path)}
    data = None if job.opened is None else job.opened.sha256
    if data is not None:
        hashes["calibration"] = data
    if is_empty(made) and not job.imported:
        job.warnings.append(about_empty(made, draft.model))
    checked = () if verification is None else verification.warnings
    return Report(
        source=None if path is None else str(path),
        output=None,
        float_bytes=stored_bytes(job.came) if path is None else file_bytes(path),
        quantized_bytes=stored_bytes(draft.model),
        plan=made,
        # What a guard would decide is decided: replayed, the recipe gives this model whatever the clocks say.
        recipe=draft.recipe.model_copy(update={"guard": False, "search": ()}).plain(),
        verification=verification,
        warnings=tuple(dict.fromkeys((*job.warnings, *made.warnings, *checked))),
        versions=versions(),
        hashes=hashes,
        seconds=dict(job.seconds),
        passes=tuple(asdict(record) for record in (*job.prepared.records, *draft.records)),
        calibration={
            "source": job.ranges_from,
            "samples": found.samples,
            "tensors": len(found.tensors),
            "synthetic": found.synthetic,
        },
        guard=guarding,
        search=searching,
        coverage=planned(made, job.prepared.model, found),
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
