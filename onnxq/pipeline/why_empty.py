"""Why nothing is quantized, in words: the plan has a sentence for every node, and it is the one that helps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxq.diagnose import holds_codes
from onnxq.types.plan import Decision, Plan

if TYPE_CHECKING:
    import onnx_ir as ir

_EVERYWHERE = ("no-kernel", "lone-clamp")
"""Reasons that an operator has wherever it stands: beside others they say little."""

_NO_GAIN = ("cheaper-in-float", "no-gain")
"""Reasons of nodes that could be quantized, and would only take longer or more room."""


def why_empty(plan: Plan) -> str:
    """Return each reason with the operators that it is about, and what it says of the first node."""
    return f"nothing can be quantized: {_reasons(plan)}"


def gains_nothing(plan: Plan) -> bool:
    """Return whether nodes are in float only because quantizing them gains nothing."""
    return any(decision.reason.code in _NO_GAIN for decision in plan.decisions)


def about_empty(plan: Plan, model: ir.Model) -> str:
    """Return a warning for the report of a plan that quantizes nothing; `model`: the result."""
    if holds_codes(model):
        return "nothing was quantized: the model is quantized already, and the rest has its reasons in the plan"
    if gains_nothing(plan):
        return f"nothing is gained by quantizing, so the result is the float model: {_reasons(plan)}"
    return "nothing was quantized: every node has its reason in the plan"


def _reasons(plan: Plan) -> str:
    groups: dict[str, list[Decision]] = {}
    for decision in plan.decisions:
        groups.setdefault(decision.reason.code, []).append(decision)
    order = sorted(groups.items(), key=lambda item: (item[0] in _EVERYWHERE, -len(item[1])))
    parts = [_told(code, decisions, explain=code not in _EVERYWHERE or len(order) == 1) for code, decisions in order]
    return "; ".join(parts) or "the model has no nodes"


def _told(code: str, decisions: Sequence[Decision], *, explain: bool) -> str:
    operators = list(dict.fromkeys(decision.op for decision in decisions))
    text = f"{code} {len(decisions)} ({', '.join(operators[:3])}{', ...' if len(operators) > 3 else ''})"
    return f"{text}: '{decisions[0].node}': {decisions[0].reason.text}" if explain else text
