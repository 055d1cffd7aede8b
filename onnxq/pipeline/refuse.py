"""Refuse: what is not written though it was made; each a VerificationError with the report of how far it came."""

from __future__ import annotations

from onnxq.diagnose import holds_codes
from onnxq.errors import VerificationError
from onnxq.pipeline.job import Job
from onnxq.pipeline.report import make_report
from onnxq.pipeline.why_empty import gains_nothing, why_empty
from onnxq.tuning.budget import Budget
from onnxq.tuning.draft import Draft, is_empty
from onnxq.types.report import Report
from onnxq.types.searching import Searching
from onnxq.types.statistics import Statistics


def refuse_none_found(job: Job, draft: Draft, found: Statistics, searching: Searching, *, kept: bool) -> None:
    """Raise VerificationError if a search met no model within the budget.

    Args:
        job: of the search. draft: the nearest. found: the statistics that it is based on. searching: what was met.
        kept: whether the measurements are in a file.
    """
    if searching.chosen is None:
        report = make_report(job, draft, found=found, verification=None, guarding=None, searching=searching)
        again = "; what was measured is kept for a search with another budget" if kept else ""
        raise VerificationError(f"{searching.message}; no model was written{again}", report)


def refuse_empty(job: Job, draft: Draft, found: Statistics) -> None:
    """Raise VerificationError if nothing can be quantized.

    The model is written where something was quantized before, where the user's rules keep it in float, and where
    quantizing gains nothing, which a guard would find as well. Rules that may match nothing are a recipe's own, for
    many models: they do not say that nothing is to be quantized.
    """
    asked = [rule.keep is not None and not rule.optional for rule in job.recipe.rules]
    by_request = any(
        entry.rule is not None and entry.rule < len(asked) and asked[entry.rule] for entry in draft.plan.decisions
    )
    if is_empty(draft.plan) and not (by_request or gains_nothing(draft.plan) or holds_codes(draft.model)):
        report = make_report(job, draft, found=found, verification=None, guarding=None)
        raise VerificationError(f"{why_empty(draft.plan)}; nothing was written (--allow-empty writes it)", report)


def refuse_worse(report: Report, budget: Budget) -> None:
    """Raise VerificationError if an output or the metric is worse than the budget allows."""
    if report.verification is None or not budget:
        return
    served = {output.name: output.sqnr_served for output in report.verification.outputs}
    worse = budget.shortfall(served, report.verification.metric)
    if worse is not None:
        raise VerificationError(f"{worse}; nothing was written", report)
