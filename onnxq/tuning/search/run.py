"""The search: the fastest or smallest model within a budget, layer by layer one of several ways, or float.

1. Every way is carried out on the whole model: what can go that way, its size, its error, its time, node by node.
2. Every unit goes every way alone, as served: the noise that it brings, and the bytes that it saves.
3. Noise adds up, nearly: that gives a row of models from the cheapest to the one of least error (`pareto_front`).
   Models of it are made and judged; the first that is within the budget is found by halving. Metrics and kernels do not
   add up, so that from there on units are let go as in cheaper models, as long as the budget and the number of tries
   allow it.

Every model that is made is written down with its size, time and error. The best that is within the budget is taken as
it was measured; the sums only say what to try.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING

from onnxq.graph.tensors import total_bytes
from onnxq.progress import Progress, step
from onnxq.tuning.draft import Draft, Make, keep
from onnxq.tuning.guard.latency import FLOOR, Measure
from onnxq.tuning.limits import Limits
from onnxq.tuning.search.checkpoint import SearchCheckpoint
from onnxq.tuning.search.choices import Choice, base_recipe, rules_for
from onnxq.tuning.search.conversions import ConversionTimes, conversions
from onnxq.tuning.search.isolated import isolated_effect, isolated_recipe
from onnxq.tuning.search.pareto import Conversion, Option, pareto_front
from onnxq.tuning.units import Unit, find_units, with_product
from onnxq.types.plan import Plan
from onnxq.types.recipe import Recipe, with_rules
from onnxq.types.report import MetricResult
from onnxq.types.searching import IsolatedChoice, Searching, Tried
from onnxq.types.sensitivity import Effect

if TYPE_CHECKING:
    import onnx_ir as ir

FLOAT = -1
# Of more units neighbours are joined: each takes a few runs of the model.
_MOST_UNITS = 96
# Seconds of a race: enough to tell which of two models is the faster one by a few percent.
_RACE = 0.4
# Samples that a unit alone is judged on: it only says what to try.
_SAMPLES = 32
# Sums of noise are right within a factor of two or so; a model that should miss the budget by more is not made.
_HOPELESS = 4.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Times:
    """Microseconds of each node of the float model, in one form of it."""

    by_node: Mapping[str, float]


@dataclass(kw_only=True)
class Search:
    """Looks for the best draft within a budget.

    Attributes:
        recipe: to search with.
        choices: what a unit may do besides staying in float.
        original: the float model.
        prepared: its normal form.
        make: makes a draft.
        limits: judges it.
        measure: measures time, None where that cannot be done here.
        checkpoint: remembers what was measured.
        conversion_times: of tensors.
        progress: reports what is going on.
        tried: the models that were made so far, by the ways of their units: indices into the choices, or FLOAT.
        units: the nodes that go one way together.
    """

    recipe: Recipe
    choices: tuple[Choice, ...]
    original: ir.Model
    prepared: ir.Model
    make: Make
    limits: Limits
    measure: Measure | None
    checkpoint: SearchCheckpoint
    conversion_times: ConversionTimes
    progress: Progress
    tried: dict[tuple[int, ...], Tried] = field(default_factory=dict)
    units: tuple[Unit, ...] = ()

    def __post_init__(self) -> None:
        self._base = base_recipe(self.recipe, self.choices)
        self._plans: list[Plan] = []
        self._whole = 0.0
        self._noise: dict[tuple[int, int], float] = {}
        self._made: dict[tuple[int, ...], Plan] = {}
        self._same: dict[tuple[int, ...], Tried] = {}

    def run(self) -> tuple[Draft, Searching]:
        """Return the best draft within the budget, or the nearest to it if none is, and all that was met."""
        began = perf_counter()
        before = self._profile("float", self.prepared)
        times = self._carry_out()
        spent = [each.by_node for each in (before, *times) if each is not None]
        self.units = find_units(self.prepared, self._plans, spent, fused=with_product, most=_MOST_UNITS)
        alone = self._alone(before, times)
        self._look(alone)
        chosen = self._best()
        rows = tuple(self.tried.values())
        nearest = min(range(len(rows)), key=lambda index: rows[index].excess, default=None)
        scored = self.limits.float_metric
        searching = Searching(
            budget=str(self.limits.budget),
            prefer=self.recipe.prefer,
            ways=tuple(choice.name for choice in self.choices),
            units=tuple(tuple(unit.nodes) for unit in self.units),
            alone=tuple(alone),
            tried=rows,
            chosen=None if chosen is None else list(self.tried).index(chosen),
            nearest=nearest,
            message=self._message(chosen, None if nearest is None else rows[nearest]),
            float_bytes=total_bytes(self.original),
            seconds=perf_counter() - began,
            metric=None if scored is None else scored[0],
            float_metric=None if scored is None else scored[1],
            resumed=self.checkpoint.restored,
        )
        taken = chosen or (None if nearest is None else rows[nearest].ways)
        recipe = self.recipe.model_copy(update={"search": ()}) if taken is None else self.recipe_of(taken)
        return self.make(recipe), searching

    def _carry_out(self) -> list[_Times | None]:
        """Let the whole model go each way, and time it; ways that come to the same plan as another one are dropped."""
        choices, times = [], []
        with step(self.progress, len(self.choices), "every way alone"):
            for choice in self.choices:
                draft = self.make(choice.recipe)
                if all(_differ(draft.plan, other) for other in self._plans):
                    times.append(self._profile(f"way {choice.name}", draft.model))
                    self._plans.append(draft.plan)
                    choices.append(choice)
                self.progress.advance(1)
        self.choices = tuple(choices)
        return times

    def recipe_of(self, ways: Sequence[int]) -> Recipe:
        """Return the recipe that lets each unit go its way, by rules that name its nodes."""
        together: dict[int, dict[str, str]] = {}
        left: list[str] = []
        for unit, way in zip(self.units, ways, strict=True):
            goes = () if way == FLOAT else unit.by_plan[way]
            together.setdefault(way, {}).update({node: unit.nodes[node] for node in goes})
            left += [node for node in unit.nodes if node not in goes]
        rules = [
            rule for way, nodes in sorted(together.items()) if nodes for rule in rules_for(self.choices[way], nodes)
        ]
        because = f"the search leaves it in float, for the sake of the budget ({self.limits.budget})"
        return with_rules(self._base, (*rules, *keep(left, "error", because)))

    def _alone(self, before: _Times | None, forms: Sequence[_Times | None]) -> list[IsolatedChoice]:
        """Measure every unit alone, each way that it can go."""
        pairs = [
            (unit, way) for unit, part in enumerate(self.units) for way in range(len(self.choices)) if part.by_plan[way]
        ]
        whole = self._whole = 0.0 if before is None else sum(before.by_node.values())
        alone: list[IsolatedChoice] = []
        with step(self.progress, len(pairs), "layers alone"):
            for unit, way in pairs:
                effect = self._effect(unit, way)
                if effect is not None:
                    now, faster = forms[way], None
                    if before is not None and now is not None and whole:
                        merged = self.units[unit].merged
                        spent = [sum(times.by_node.get(node, 0.0) for node in merged) for times in (before, now)]
                        faster = (spent[0] - spent[1]) / whole
                    noise = 10 ** (-effect.sqnr / 10) if effect.sqnr < math.inf else 0.0
                    alone.append(IsolatedChoice(unit=unit, way=way, noise=noise, saved=effect.saved, faster=faster))
                self.progress.advance(1)
        return alone

    def _effect(self, unit: int, way: int) -> Effect | None:
        part = self.units[unit]
        recipe = isolated_recipe(self._base, part, self.choices, way)
        name = self.choices[way].name
        return self.checkpoint.recall(
            f"alone {part.name} {way}",
            Effect,
            lambda: isolated_effect(
                recipe, part, name, make=self.make, limits=self.limits, prepared=self.prepared, samples=_SAMPLES
            ),
        )

    def _profile(self, name: str, model: ir.Model) -> _Times | None:
        measure = self.measure
        if measure is None:
            return None
        threads = self.recipe.serving[0]
        return self.checkpoint.recall(f"times {name}", _Times, lambda: _Times(by_node=measure.times(model, threads)))

    def _look(self, alone: Sequence[IsolatedChoice]) -> None:
        """Make and judge models, until tries are over or nothing is left that could be better."""
        options = [[Option(way=FLOAT, cost=0.0, noise=0.0)] for _ in self.units]
        for each in alone:
            static = self.choices[each.way].recipe.format.static
            self._noise[each.unit, each.way] = each.noise
            options[each.unit].append(Option(way=each.way, cost=-self._gain(each), noise=each.noise, codes=static))
        models = pareto_front(options, self._conversions())
        uniform = [
            tuple(way if unit.by_plan[way] else FLOAT for unit in self.units) for way in range(len(self.choices))
        ]
        with step(self.progress, self.recipe.tries, "whole models"):
            for ways in uniform:
                self._try(ways)
            passing = self._halve(models)
            self._repair(models, passing)

    def _conversions(self) -> tuple[Conversion, ...]:
        """Return the tensors between units whose conversion takes time, in shares of the float model's."""
        static = next((index for index, choice in enumerate(self.choices) if choice.recipe.format.static), None)
        if self.recipe.prefer == "size" or static is None or not self._whole:
            return ()
        return conversions(
            self.prepared, self.units, static, self._plans[static], times=self.conversion_times, whole=self._whole * 1e3
        )

    def _halve(self, models: Sequence[tuple[int, ...]]) -> int:
        """Return the index of the first model that is within the budget, supposing that those behind it are, too."""
        failing, passing, guess = -1, len(models) - 1, 0
        while passing - failing > 1 and self._left():
            if not self._hopeless(models[guess]) and self._passes(models[guess]):
                passing = guess
            else:
                failing = guess
            guess = (failing + passing) // 2
        return passing

    def _repair(self, models: Sequence[tuple[int, ...]], passing: int) -> None:
        """Let units go as in cheaper models, except those that break the budget: by halves, neighbours together."""
        kept, refused, back = list(models[passing]), set[int](), 1
        while passing - back >= 0 and self._left():
            cheaper = models[passing - back]
            back *= 2
            differing = [unit for unit, way in enumerate(cheaper) if kept[unit] != way and unit not in refused]
            groups = [differing]
            while groups and self._left():
                group = groups.pop(0)
                if not group:
                    continue
                tried = [cheaper[unit] if unit in group else way for unit, way in enumerate(kept)]
                if not self._hopeless(tried) and self._passes(tuple(tried)):
                    kept = tried
                elif len(group) > 1:
                    groups += [group[: len(group) // 2], group[len(group) // 2 :]]
                else:
                    refused.update(group)

    def _passes(self, ways: tuple[int, ...]) -> bool:
        if all(way == FLOAT for way in ways):
            return True
        tried = self._try(ways)
        return tried is not None and tried.shortfall is None

    def _left(self) -> bool:
        return len(self.tried) < self.recipe.tries

    def _try(self, ways: tuple[int, ...]) -> Tried | None:
        """Make a model and judge it; None where it turns out to be the float model, or tries are over."""
        if ways in self.tried:
            return self.tried[ways]
        if not self._left() or all(way == FLOAT for way in ways):
            return None
        if ways in self._same:
            return self._same[ways]
        names = ",".join(map(str, ways))
        tried = self.checkpoint.recall(f"model {names}", Tried, lambda: self._judge(ways))
        if tried is not None and tried.ways != ways:  # the planner makes the same of both
            self.tried.setdefault(tried.ways, self._judged(tried))
            tried = self._same[ways] = self.tried[tried.ways]
        elif tried is not None:
            tried = self.tried[ways] = self._judged(tried)
            self.progress.note(f"{len(self.tried)}: {_shown(tried)}")
            self.progress.advance(1)
        return tried

    def _hopeless(self, ways: Sequence[int]) -> bool:
        """Return whether the noise of the units alone adds up to far more than an output may have."""
        least = self.limits.budget.min_sqnr
        return least is not None and sum(
            self._noise.get((unit, way), 0.0) for unit, way in enumerate(ways)
        ) > _HOPELESS * 10 ** (-least / 10)

    def _judge(self, ways: tuple[int, ...]) -> Tried | None:
        draft = self.make(self.recipe_of(ways))
        if not draft.quantized:
            return None
        for other, plan in self._made.items():
            if not _differ(plan, draft.plan):
                return self.tried[other]
        self._made[ways] = draft.plan
        figures = self.limits.figures(draft.model, metric=self.limits.scores)
        timing = None
        if self.measure is not None:
            timing = self.measure.race([self.original, draft.model], self.recipe.serving[0], _RACE)
        return Tried(
            ways=ways,
            bytes=total_bytes(draft.model),
            outputs=dict(figures.outputs),
            metric=None if figures.metric is None else figures.metric.quantized_value,
            latency_ms=None if timing is None else timing.best_ms(1),
            speedup=None if timing is None else timing.ratio(0, 1),
            noise=None if timing is None else max(FLOOR, timing.noise),
        )

    def _judged(self, tried: Tried) -> Tried:
        """Return a model with what the budget says of it."""
        budget, before, metric = self.limits.budget, self.limits.float_metric, None
        if before is not None and tried.metric is not None:
            metric = MetricResult(name=before[0], float_value=before[1], quantized_value=tried.metric)
        return replace(
            tried, shortfall=budget.shortfall(tried.outputs, metric), excess=budget.excess(tried.outputs, metric)
        )

    def _gain(self, each: IsolatedChoice) -> float:
        """Return what a unit gains by a way: what is preferred, and a little for the other."""
        size = each.saved / max(total_bytes(self.original), 1)
        if self.recipe.prefer == "size" or each.faster is None:
            return size + 1e-3 * (each.faster or 0.0)
        return each.faster + 1e-3 * size

    def _best(self) -> tuple[int, ...] | None:
        """Return the ways of the smallest or fastest model within the budget; what is as fast is judged by size."""
        within = {ways: tried for ways, tried in self.tried.items() if tried.shortfall is None}
        if not within:
            return None
        if self.recipe.prefer == "size" or self.measure is None:
            return min(within, key=lambda ways: (within[ways].bytes, -(within[ways].speedup or 0.0)))
        fastest = max(tried.speedup or 0.0 for tried in within.values())
        as_fast = (ways for ways in within if (within[ways].speedup or 0.0) >= fastest * (1 - FLOOR))
        return min(as_fast, key=lambda ways: within[ways].bytes)

    def _message(self, chosen: tuple[int, ...] | None, nearest: Tried | None) -> str:
        count = f"{len(self.tried)} models tried"
        if chosen is not None:
            names = {index: choice.name for index, choice in enumerate(self.choices)} | {FLOAT: "float"}
            goes = ", ".join(f"{chosen.count(index)} {name}" for index, name in names.items() if index in chosen)
            return f"{count}; of {len(chosen)} layers {goes}: {_shown(self.tried[chosen])}"
        if nearest is None:
            return f"no layer can be quantized in any of the ways; {count}"
        return (
            f"no quantized model is within the budget ({self.limits.budget}); {count}, the nearest: {_shown(nearest)}"
        )


def _differ(one: Plan, other: Plan) -> bool:
    """Return whether two plans make different models."""
    return one.tensors != other.tensors or [each.format for each in one.decisions] != [
        each.format for each in other.decisions
    ]


def _shown(tried: Tried) -> str:
    parts = [f"{tried.bytes / 1e6:.3g} MB"]
    if tried.speedup is not None:
        parts.append(f"{tried.speedup:.2f}x float's speed")
    parts.append(f"{tried.sqnr:.1f} dB" if math.isfinite(tried.sqnr) else ("exact" if tried.sqnr > 0 else "broken"))
    if tried.metric is not None:
        parts.append(f"metric {tried.metric:.5g}")
    return ", ".join(parts) + ("" if tried.shortfall is None else f"; {tried.shortfall}")
