"""All that a job did, in one Report: made, refused where nothing may be written, and written with the model."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from onnxq.diagnose import holds_codes, planned
from onnxq.errors import VerificationError
from onnxq.files.load import file_bytes
from onnxq.files.report import report_to_json
from onnxq.files.save import SavedModel, save
from onnxq.graph.tensors import stored_bytes
from onnxq.pipeline.log import Log
from onnxq.pipeline.observing import Observed
from onnxq.pipeline.preparing import PreparedModel
from onnxq.pipeline.why_empty import about_empty, gains_nothing, why_empty
from onnxq.runtime.session import versions
from onnxq.tuning.budget import Budget
from onnxq.tuning.draft import Draft, is_empty
from onnxq.types.guarding import Guarding
from onnxq.types.report import Report, Verification
from onnxq.types.searching import Searching

if TYPE_CHECKING:
    import onnx_ir as ir


def make_report(
    prepared: PreparedModel,
    observed: Observed,
    draft: Draft,
    log: Log,
    *,
    verification: Verification | None = None,
    guarding: Guarding | None = None,
    searching: Searching | None = None,
) -> Report:
    """Gather what a call did.

    Args:
        prepared: its model.
        observed: the statistics that the plan is based on.
        draft: the result, with its recipe and plan.
        log: what there was to say on the way.
        verification: None where the models were not run.
        guarding, searching: what a guard and a search did, None if there was none.
    """
    plan, path = draft.plan, prepared.request.path
    data = prepared.request.calibration.sha256
    hashes = ({} if path is None else {"source": _sha256(path)}) | ({} if data is None else {"calibration": data})
    warnings = list(log.warnings)
    if is_empty(plan) and not prepared.has_imported:
        warnings.append(about_empty(plan, draft.model))
    warnings += [*plan.warnings, *(() if verification is None else verification.warnings)]
    return Report(
        source=None if path is None else str(path),
        output=None,
        float_bytes=stored_bytes(prepared.request.model) if path is None else file_bytes(path),
        quantized_bytes=stored_bytes(draft.model),
        plan=plan,
        # What a guard would decide is decided: replayed, the recipe gives this model whatever the clocks say.
        recipe=draft.recipe.model_copy(update={"guard": False, "search": ()}).plain(),
        verification=verification,
        warnings=tuple(dict.fromkeys(warnings)),
        versions=versions(),
        hashes=hashes,
        seconds=dict(log.seconds),
        passes=tuple(asdict(record) for record in (*prepared.records, *draft.records)),
        calibration={
            "source": observed.source,
            "samples": observed.statistics.samples,
            "tensors": len(observed.statistics.tensors),
            "synthetic": observed.statistics.synthetic,
        },
        guard=guarding,
        search=searching,
        coverage=planned(plan, prepared.model, observed.statistics),
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_none_found(searching: Searching, report: Report, *, kept: bool) -> NoReturn:
    """Raise VerificationError: a search met no model within the budget; `kept`: whether its measurements are."""
    again = "; what was measured is kept for a search with another budget" if kept else ""
    raise VerificationError(f"{searching.message}; no model was written{again}", report)


def refuse_empty(draft: Draft, report: Report) -> None:
    """Raise VerificationError if a plan is empty because nothing can be quantized.

    The model is written where something was quantized before, where the user's rules keep it in float, and where
    quantizing gains nothing, which a guard would find as well. Rules that may match nothing are a recipe's own, for
    many models: they do not say that nothing is to be quantized.
    """
    keeps = [rule.keep is not None and not rule.optional for rule in draft.recipe.rules]
    by_request = any(
        entry.rule is not None and entry.rule < len(keeps) and keeps[entry.rule] for entry in draft.plan.decisions
    )
    if not (by_request or gains_nothing(draft.plan) or holds_codes(draft.model)):
        raise VerificationError(f"{why_empty(draft.plan)}; nothing was written (--allow-empty writes it)", report)


def refuse_worse(report: Report, budget: Budget) -> None:
    """Raise VerificationError if an output or the metric is worse than the budget allows."""
    if report.verification is None or not budget:
        return
    served = {output.name: output.sqnr_served for output in report.verification.outputs}
    worse = budget.shortfall(served, report.verification.metric)
    if worse is not None:
        raise VerificationError(f"{worse}; nothing was written", report)


def report_path(output: Path) -> Path:
    """Return where the report of a quantized model goes: `model.int8.onnx` -> `model.int8.report.json`."""
    return output.parent / f"{output.stem}.report.json"


def save_with_report(model: ir.Model, output: Path, report: Report, *, force: bool, streamed: bool) -> Report:
    """Write a model and its report whole or not at all; return the report, with size and hash of what was written.

    Args:
        model: quantized. output: its file. report: on it. force, streamed: as for `save`.

    Raises:
        ModelError: as for `save`.
    """
    saved = replace(report, output=str(output))

    def finished(written: SavedModel) -> bytes:
        nonlocal saved
        hashes = {**report.hashes, "output": written.sha256}
        saved = replace(saved, quantized_bytes=written.size, hashes=hashes)
        return report_to_json(saved).encode()

    save(model, output, force=force, companions={report_path(output): finished}, streamed=streamed)
    return saved
