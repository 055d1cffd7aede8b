"""Draft: one try at a quantized model, and the loop plan -> rewrite -> judge -> next plan that all improvements share.

What a judge finds is said in rules of a recipe, so that every step is data: the recipe of the last draft, replayed,
gives the same model without judging again.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from onnxq.passes.manager import PassRecord
from onnxq.types.float_type import FloatType
from onnxq.types.plan import Action, Plan
from onnxq.types.recipe import Recipe, with_rules
from onnxq.types.rule import Match, Rule

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Draft:
    """A recipe carried out.

    Attributes:
        recipe: with the rules that were found so far.
        plan: that the recipe leads to.
        model: quantized.
        records: of the passes.
    """

    recipe: Recipe
    plan: Plan
    model: ir.Model
    records: tuple[PassRecord, ...] = ()

    @property
    def quantized(self) -> tuple[str, ...]:
        """The nodes that are quantized, in plan order."""
        return tuple(entry.node for entry in self.plan.decisions if entry.action is Action.QUANTIZE)


Make: TypeAlias = Callable[[Recipe], Draft]
"""Plans a recipe and carries the plan out."""

Judge: TypeAlias = Callable[[Draft], Sequence[Rule]]
"""Returns the rules that would make a draft better; none where it is good."""


def refine(make: Make, draft: Draft, judge: Judge, *, rounds: int) -> Draft:
    """Judge a draft and make the next one, until the judge is content, nothing changes any more, or rounds are over."""
    for _ in range(rounds):
        rules = judge(draft)
        if not rules:
            break
        following = make(with_rules(draft.recipe, rules))
        if following.plan == draft.plan:
            break
        draft = following
    return draft


def keep(
    nodes: Collection[str], why: Literal["unfused", "error", "slower", "kernel-fault"], because: str | Mapping[str, str]
) -> tuple[Rule, ...]:
    """Return rules that keep nodes in float: one for each text of `because`, which may differ from node to node."""
    groups: dict[str, list[str]] = {}
    for node in nodes:
        groups.setdefault(because if isinstance(because, str) else because[node], []).append(glob.escape(node))
    return tuple(
        Rule(match=Match(name=names[0] if len(names) == 1 else tuple(names)), keep=why, because=text)
        for text, names in groups.items()
    )


def is_empty(plan: Plan) -> bool:
    """Return whether a plan leaves everything as it is."""
    changed = (
        decision.action is Action.QUANTIZE or decision.float_type not in (None, FloatType.FLOAT32)
        for decision in plan.decisions
    )
    return not plan.constants and not any(changed)
