"""Served as planned: nodes whose kernel computes something else than the graph says get another form.

The outputs on a few samples tell whether there is anything to look for. Where there is, tensors as served against
tensors as the graph says name suspects, worst first; that is only a suspicion, so each form that nodes may have instead
is tried on them, and what counts is how the whole model is served then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from onnxq.errors import CalibrationError, ModelError, RecipeError
from onnxq.evaluate.served import Departure, Gap, cause_of, largest, ran_at, why
from onnxq.tuning.draft import Draft, Make
from onnxq.tuning.guard.forms import Form, forms_of, rule_for
from onnxq.types.format import Format
from onnxq.types.guarding import GuardStep
from onnxq.types.plan import Action, Decision, Plan, Role
from onnxq.types.recipe import with_rules

if TYPE_CHECKING:
    import onnx_ir as ir

CODE = "kernel-fault"
# Kinds of nodes that are repaired one after the other.
_ROUNDS = 8
# A form is right where it leaves this share of what serving adds to the noise, of the outputs or of its own nodes.
_LEFT = 0.7
# Seconds after which no further draft is tried, but the first; after half of them no smaller number of nodes is looked
# for.
_LIMIT = 120.0
# What must be lost before weights go back to float that were quantized for their size: one bit.
_WORTH_DB = 6.0


class Fidelity(Protocol):
    """Tells how a model is served against what its graph says; `onnxq.evaluate.served.Served` does by running it."""

    def gap(self, model: ir.Model, *, rounding: bool = True) -> Gap:
        """Return the output that falls short most; `rounding`: whether inputs that a kernel rounds count."""
        ...

    def departures(self, model: ir.Model, *, rounding: bool = True) -> Sequence[Departure]:
        """Return where a model departs from its graph, worst first."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Suspects:
    """Nodes of one cause or kind, worst first, what their kernels add to the noise and do, and what they may be."""

    nodes: tuple[str, ...]
    noise: float
    cause: str
    forms: tuple[Form, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Try:
    """A form that nodes were given, and how the model is served with it."""

    form: Form
    draft: Draft
    gap: Gap


@dataclass(kw_only=True)
class FaultGuard:
    """Gives nodes whose kernels compute something else another form.

    Attributes:
        make: makes a draft of a recipe.
        fidelity: runs models.
        prefer: as in the recipe.
        faster: returns whether a model is faster than another one; None where time cannot be measured here.
        steps: what got another form, and what could not be repaired.
        clock: seconds.
        tries: drafts tried so far.
    """

    make: Make
    fidelity: Fidelity
    prefer: str = "speed"
    faster: Callable[[ir.Model, ir.Model], bool] | None = None
    steps: list[GuardStep] = field(default_factory=list)
    clock: Callable[[], float] = perf_counter
    tries: int = 0

    def improve(self, draft: Draft) -> Draft:
        """Return the draft with other forms of those nodes that are not served as the graph says."""
        until = self.clock() + _LIMIT
        # A requested accuracy level is one that may round.
        rounding = draft.recipe.accuracy_level is None
        for _ in range(_ROUNDS):
            gap = self.fidelity.gap(draft.model, rounding=rounding)
            if not gap.open:
                return draft
            suspects = self._suspects(draft, gap.rounding)
            better = next((repaired for each in suspects if (repaired := self._repair(draft, gap, each, until))), None)
            if better is None:
                self._in_vain(gap, suspects, late=self._late(until))
                return draft
            draft = better
        return draft

    def _suspects(self, draft: Draft, rounding: bool) -> list[_Suspects]:
        """Return the nodes at which a draft departs from its graph: by cause where that is known, then by kind."""
        quantized = {entry.node: entry for entry in draft.plan.decisions if entry.action is Action.QUANTIZE}
        departures = self.fidelity.departures(draft.model, rounding=rounding)
        ran = ran_at(draft.model, departures, target=draft.plan.target)
        known = [each for each in zip(departures, ran, strict=True) if cause_of(each[1]) is not None]
        others = list(zip(largest(departures), ran, strict=False))
        groups: dict[Hashable, tuple[str, list[str], tuple[Form, ...]]] = {}
        grouped: set[str] = set()
        # Where a cause is known, it is at work however little of it is seen; what others add may be what that became.
        for departure, there in (*known, *others):
            cause = cause_of(there)
            for node in _planned(departure.nodes, quantized):
                forms = forms_of(quantized[node], draft.plan, portable=draft.recipe.portable)
                kind = _kind(quantized[node], draft.plan) if cause is None else cause.name
                if node not in grouped:
                    grouped.add(node)
                    groups.setdefault((kind, forms), (why([there], advice=False), [], forms))[1].append(node)
        return [
            _Suspects(nodes=tuple(nodes), noise=_noise_at(nodes, departures), cause=text, forms=forms)
            for text, nodes, forms in groups.values()
        ]

    def _late(self, until: float) -> bool:
        """Return whether no further draft may be tried; a first one may, however long the search for suspects took."""
        return self.tries > 0 and self.clock() > until

    def _repair(self, draft: Draft, gap: Gap, suspects: _Suspects, until: float) -> Draft | None:
        """Return the draft with the form of suspects that is served right, None if absent."""
        chosen = self._choose(draft, gap, suspects, until)
        if chosen is None:
            return None
        nodes, count = suspects.nodes, 1
        while count < len(suspects.nodes) and not chosen.gap.open and self.clock() < until - _LIMIT / 2:
            fewer = self._try(draft, gap, suspects, chosen.form, count)
            if fewer is not None and not fewer.gap.open:
                chosen, nodes = fewer, suspects.nodes[:count]
                break
            count *= 2
        after = chosen.gap
        where = "" if after.output == gap.output else f"at worst output '{after.output}' with "
        text = f"{_because(gap, suspects.cause)}; {chosen.form.name}: {where}{after}"
        self.steps.append(GuardStep(why=CODE, nodes=nodes, text=text))
        return _retold(chosen.draft, _because(gap, suspects.cause), text)

    def _choose(self, draft: Draft, gap: Gap, suspects: _Suspects, until: float) -> _Try | None:
        """Return the first form that is served right, or float where that is faster; None if absent or if late."""
        first: _Try | None = None
        for form in suspects.forms:
            if self._late(until):
                break
            if form.is_float and first is not None and (self.prefer == "size" or self.faster is None):
                break
            if form.is_float and first is None and self._gives_up_size(draft, gap, suspects):
                break
            if not form.is_float and first is not None:
                continue
            tried = self._try(draft, gap, suspects, form)
            if tried is None:
                continue
            if first is None:
                first = tried
            elif self.faster is not None and self.faster(tried.draft.model, first.draft.model):
                text = f"{first.form.name} is served right as well, and slower than float"
                self.steps.append(GuardStep(why=CODE, nodes=suspects.nodes, text=text, taken=False))
                first = tried
        return first

    def _gives_up_size(self, draft: Draft, gap: Gap, suspects: _Suspects) -> bool:
        """Return whether float would undo what weights are quantized for, for no more than a bit of error."""
        entries = [entry for entry in draft.plan.decisions if entry.node in suspects.nodes]
        tensors = [draft.plan.tensors[key] for entry in entries for key in entry.inputs.values()]
        weighted = any(tensor.role is Role.WEIGHT for tensor in tensors)
        for_size = self.prefer == "size" or all(entry.format is Format.WEIGHT_ONLY for entry in entries)
        return weighted and for_size and gap.plain - gap.served <= _WORTH_DB

    def _try(self, draft: Draft, gap: Gap, suspects: _Suspects, form: Form, count: int | None = None) -> _Try | None:
        """Return what the worst suspects come to in another form, None if they are not right in it or cannot have it.

        Args:
            draft: to change.
            gap: of it.
            suspects, form: what to change.
            count: how many of them; None for all.
        """
        nodes, rounding = suspects.nodes[:count], draft.recipe.accuracy_level is None
        self.tries += 1
        try:
            changed = self.make(with_rules(draft.recipe, [rule_for(nodes, form, _because(gap, suspects.cause))]))
            if not form.is_float and not set(nodes) <= set(changed.quantized):
                return None
            after = self.fidelity.gap(changed.model, rounding=rounding)
            right = not after.open or (math.isfinite(after.excess) and after.excess <= _LEFT * gap.excess)
            if not right and after.excess < gap.excess and count is None:  # others spoil the outputs, too
                still = self.fidelity.departures(changed.model, rounding=gap.rounding)
                here = _noise_at(nodes, still)
                right = math.isfinite(here) and here <= _LEFT * suspects.noise
        except (RecipeError, CalibrationError, ModelError):  # no such kernel, or tensors that were not observed
            return None
        return _Try(form=form, draft=changed, gap=after) if right else None

    def _in_vain(self, gap: Gap, suspects: Sequence[_Suspects], *, late: bool) -> None:
        nodes = tuple(dict.fromkeys(node for each in suspects for node in each.nodes))
        cause = suspects[0].cause if suspects else "no quantized node departs from the graph alone"
        what = "no time was left" if late else "no other form of its nodes is served better and worth its price"
        text = f"{_because(gap, cause)}; {what}"
        self.steps.append(GuardStep(why=CODE, nodes=nodes, text=text, taken=False))


def _because(gap: Gap, cause: str) -> str:
    return f"{cause}: output '{gap.output}': {gap}"


def _retold(draft: Draft, before: str, after: str) -> Draft:
    """Return a draft whose last rule, and the plan by it, give the figures that were measured since."""
    *rules, last = draft.recipe.rules
    recipe = draft.recipe.model_copy(update={"rules": (*rules, last.model_copy(update={"because": after}))})
    decisions = tuple(
        replace(entry, reason=replace(entry.reason, text=entry.reason.text.replace(before, after)))
        if entry.rule == len(rules)
        else entry
        for entry in draft.plan.decisions
    )
    return replace(draft, recipe=recipe, plan=replace(draft.plan, decisions=decisions))


def _noise_at(nodes: Collection[str], departures: Sequence[Departure]) -> float:
    """Return what is added where these nodes compute: a tensor counts once, however many of them take part in it."""
    return sum(each.noise for each in departures if any(_planned(each.nodes, nodes)))


def _planned(names: Sequence[str], planned: Collection[str]) -> Iterator[str]:
    """Yield the planned nodes that nodes of the quantized model are made of: several may be named after one."""
    for name in names:
        parts = name.split("/")
        for count in range(len(parts), 0, -1):
            path = "/".join(parts[:count])
            if path in planned:
                yield path
                break


def _kind(decision: Decision, plan: Plan) -> Hashable:
    """Return what nodes have in common that may run on one kernel: a fault of that is a fault of all."""
    schemes = tuple((slot, plan.tensors[key].scheme) for slot, key in sorted(decision.inputs.items()))
    return decision.op, decision.kernel, decision.format, decision.accuracy_level, schemes
