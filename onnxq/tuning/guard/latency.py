"""Never slower: which groups of quantized nodes go back to float because of time.

The runtime's profile of both models says where time is lost; that is only a suspicion, for a node's own time does not
tell what its neighbours cost without it. So every suspicion is tried: the model is made again with the suspects in
float and raced against the one before; only a gain beyond chance counts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from onnxq.errors import CalibrationError
from onnxq.tuning.draft import Draft, Make, keep
from onnxq.tuning.units import Unit, find_regions, find_units
from onnxq.types.guarding import GuardStep, Race
from onnxq.types.recipe import with_rules
from onnxq.types.rule import Rule

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from onnxq.runtime.timing import RaceTimes

# Smaller differences decide nothing, however quiet the machine seems to be.
FLOOR = 0.02
# Losses below this share of a model's time are chance, or worth no try.
_NOTABLE = 0.002
_ROUNDS, _TRIES = 4, 6
# Seconds for a first look at a try; what is slower there, beyond chance, is not raced in full.
_LOOK = 0.1
# Seconds after which nothing new is tried.
_LIMIT = 30.0
# How often a race is run again that says that quantizing does not pay: a busy machine may have struck one model only.
_DOUBTS = 2


class Measure(Protocol):
    """Measures models; `onnxq.runtime.stopwatch.Stopwatch` does with clocks."""

    def race(self, models: Sequence[ir.Model], threads: int, budget: float | None = None) -> RaceTimes:
        """Time models in turns, served with `threads` intra-op threads (0: all cores), for `budget` seconds."""
        ...

    def times(self, model: ir.Model, threads: int) -> Mapping[str, float]:
        """Return the time of each node of the prepared float model, in microseconds, in this form of it."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Suspect:
    """Groups of one kind that seem to lose time.

    Attributes:
        groups: in plan order.
        loss: time lost, in shares of the whole model's, mean over the thread counts.
        before, after: microseconds in float and quantized, at the first thread count.
    """

    groups: tuple[Unit, ...]
    loss: float
    before: float
    after: float

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(node for group in self.groups for node in group.nodes)

    @property
    def because(self) -> str:
        many = f"{len(self.groups)} groups like it together take" if len(self.groups) > 1 else "its group takes"
        return f"{many} {self.after / 1e3:.3g} ms quantized, {self.before / 1e3:.3g} ms in float"


@dataclass(kw_only=True)
class SpeedGuard:
    """Looks for the fastest draft, between the one it is given and the float model.

    Attributes:
        original: the float model.
        prepared: its normal form, whose nodes the plan names.
        make: makes a draft of a recipe.
        measure: measures models.
        threads: counts to be served with, 0 for all cores.
        good: returns whether a model is good enough: errors cancel out sometimes, and one that is gone is missed.
        steps: what was put back, and what was tried in vain.
        clock: seconds; after half a minute nothing new is tried.
    """

    original: ir.Model
    prepared: ir.Model
    make: Make
    measure: Measure
    threads: tuple[int, ...]
    good: Callable[[ir.Model], bool] = lambda model: True
    steps: list[GuardStep] = field(default_factory=list)
    clock: Callable[[], float] = perf_counter

    def races(self, model: ir.Model) -> tuple[Race, ...]:
        """Time a model against the float model at every thread count; that it is slower is only said if it stays so."""
        races = []
        for count in self.threads:
            race = self._race(self.original, model, count)
            for _ in range(_DOUBTS if race.slower else 0):
                race = max(race, self._race(self.original, model, count), key=lambda each: each.speedup)
                if not race.slower:
                    break
            races.append(race)
        return tuple(races)

    def _faster(self, model: ir.Model, base: ir.Model) -> tuple[bool, float]:
        """Return whether a model is faster than another one at some thread count, in two races, and slower at none."""
        gains, faster = [], False
        for count in self.threads:
            race = self._race(base, model, count)
            if race.faster:
                race = min(race, self._race(base, model, count), key=lambda each: each.speedup)
            gains.append(race.speedup)
            if race.slower:
                return False, race.speedup
            faster = faster or race.faster
        return faster, math.prod(gains) ** (1 / len(gains))

    def faster(self, model: ir.Model, base: ir.Model) -> bool:
        """Return whether a model is faster than another one at some thread count, beyond chance, and slower at none."""
        return self._faster(model, base)[0]

    def _race(self, base: ir.Model, model: ir.Model, threads: int) -> Race:
        timing = self.measure.race([base, model], threads)
        return Race(
            threads=threads,
            float_ms=timing.best_ms(0),
            quantized_ms=timing.best_ms(1),
            speedup=timing.ratio(0, 1),
            noise=max(FLOOR, timing.noise),
            runs=timing.rounds,
        )

    def improve(self, draft: Draft) -> Draft:
        """Return the draft with those groups in float that take longer quantized."""
        tries, until = _TRIES, self.clock() + _LIMIT
        in_vain: set[str] = set()
        for _ in range(_ROUNDS):
            if self.clock() > until:
                break
            lists = self._suspects(draft)
            # What cannot gain more than chance proves nothing.
            large = [suspect for suspect in lists[1] if suspect.loss > FLOOR]
            together = [each for each in (*lists, large) if sum(suspect.loss for suspect in each) > FLOOR]
            improved = [self._try(draft, each) for each in _different(together) if not in_vain.issuperset(_nodes(each))]
            better = max((each for each in improved if each is not None), key=lambda each: each[1], default=None)
            if better is None:
                alone = sorted((suspect for each in lists for suspect in each), key=lambda suspect: -suspect.loss)
                for suspect in alone:
                    if suspect.loss <= FLOOR or in_vain.issuperset(suspect.nodes):
                        continue
                    if tries == 0 or self.clock() > until:
                        break
                    tries -= 1
                    better = self._try(draft, [suspect])
                    if better is not None:
                        break
                    in_vain.update(suspect.nodes)
            if better is None:
                return draft
            draft = better[0]
        return draft

    def _try(self, draft: Draft, suspects: Sequence[_Suspect]) -> tuple[Draft, float] | None:
        """Return the draft with the suspects in float and what it gains, None if that is no faster."""
        rules: list[Rule] = []
        for suspect in suspects:
            rules += keep(suspect.nodes, "slower", suspect.because)
        nodes = tuple(dict.fromkeys(_nodes(suspects)))
        text = "; ".join(suspect.because for suspect in suspects[:3]) + ("; ..." if len(suspects) > 3 else "")
        try:
            changed = self.make(with_rules(draft.recipe, rules))
        except CalibrationError:  # its borders lie elsewhere, at tensors that were not observed
            return None
        look = self.measure.race([draft.model, changed.model], self.threads[0], _LOOK)
        gain = look.ratio(0, 1)
        if gain < 1 - look.noise:
            self.steps.append(GuardStep(why="slower", nodes=nodes, text=f"{text}; float: {gain:.3g}x", taken=False))
            return None
        taken, gain = self._faster(changed.model, draft.model)
        if taken and not self.good(changed.model):
            taken, text = False, f"{text}; not good enough"
        self.steps.append(GuardStep(why="slower", nodes=nodes, text=f"{text}; float: {gain:.3g}x", taken=taken))
        return (changed, gain) if taken else None

    def _suspects(self, draft: Draft) -> tuple[list[_Suspect], list[_Suspect]]:
        """Return the regions that seem to lose time, and the units that do."""
        spent = [
            (self.measure.times(self.prepared, count), self.measure.times(draft.model, count)) for count in self.threads
        ]
        whole = [sum(after.values()) for _, after in spent]
        parts = find_units(self.prepared, (draft.plan,), [times for pair in spent for times in pair])
        whole_regions = _with_merged(find_regions(self.prepared, draft.plan), parts)
        of_regions, of_units = (
            [suspect for suspect in _by_kind(groups, spent, whole) if suspect.loss > _NOTABLE]
            for groups in (whole_regions, parts)
        )
        return of_regions, of_units


def _nodes(suspects: Iterable[_Suspect]) -> Iterator[str]:
    return (node for suspect in suspects for node in suspect.nodes)


def _different(lists: Iterable[list[_Suspect]]) -> list[list[_Suspect]]:
    """Return the lists that name different nodes than those before them."""
    return list({frozenset(_nodes(each)): each for each in reversed(list(lists))}.values())[::-1]


def _with_merged(groups: Iterable[Unit], parts: Iterable[Unit]) -> Iterator[Unit]:
    """Yield regions with the float nodes that share a kernel with one of their nodes."""
    merged = {node: part.merged for part in parts for node in part.nodes}
    for group in groups:
        yield replace(group, merged=group.merged.union(*(merged[node] for node in group.nodes)))


def _by_kind(
    groups: Iterable[Unit], spent: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], whole: Sequence[float]
) -> Iterator[_Suspect]:
    kinds: dict[Hashable, list[Unit]] = defaultdict(list)
    for group in groups:
        kinds[group.kind].append(group)
    for alike in kinds.values():
        nodes = {node for group in alike for node in group.merged}
        sums = [tuple(sum(times.get(node, 0.0) for node in nodes) for times in pair) for pair in spent]
        losses = [(after - before) / total for (before, after), total in zip(sums, whole, strict=True) if total]
        loss = sum(losses) / len(losses) if losses else 0.0
        yield _Suspect(groups=tuple(alike), loss=loss, before=sums[0][0], after=sums[0][1])
