"""Refuse: what is not written though it was made; each a VerificationError with the report of how far it came."""

from __future__ import annotations

from collections.abc import Sequence

from onnxq.errors import VerificationError
from onnxq.stages.budget import Budget
from onnxq.stages.doctor import holds_codes
from onnxq.stages.draft import Draft, is_empty
from onnxq.stages.job import Job
from onnxq.stages.make_report import make_report
from onnxq.types.plan import Decision, Plan
from onnxq.types.report import Report
from onnxq.types.searching import Searching
from onnxq.types.statistics import Statistics

_PLAIN = ("no-kernel", "lone-clamp")
"""Reasons that operators have wherever they stand."""


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
    """Raise VerificationError if nothing is quantized, was before, or is in float because the user's rules say so.

    Rules that may match nothing are a recipe's own, for many models: they do not say that nothing is to be quantized.
    """
    asked = [rule.keep is not None and not rule.optional for rule in job.recipe.rules]
    by_request = any(
        entry.rule is not None and entry.rule < len(asked) and asked[entry.rule] for entry in draft.plan.decisions
    )
    if is_empty(draft.plan) and not (by_request or holds_codes(draft.model)):
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


def why_empty(plan: Plan) -> str:
    """Return in words why nothing is quantized: each reason with the operators it is about, most frequent first.

    Nodes of operators that no plan quantizes say little beside others: of each other reason, one node is named.
    """
    groups: dict[str, list[Decision]] = {}
    for decision in plan.decisions:
        groups.setdefault(decision.reason.code, []).append(decision)
    order = sorted(groups.items(), key=lambda item: (item[0] in _PLAIN, -len(item[1])))
    parts = [_told(code, found, explain=code not in _PLAIN or len(order) == 1) for code, found in order]
    return f"nothing can be quantized: {'; '.join(parts) or 'the model has no nodes'}"


def _told(code: str, found: Sequence[Decision], *, explain: bool) -> str:
    operators = list(dict.fromkeys(decision.op for decision in found))
    text = f"{code} {len(found)} ({', '.join(operators[:3])}{', ...' if len(operators) > 3 else ''})"
    return f"{text}: '{found[0].node}': {found[0].reason.text}" if explain else text
