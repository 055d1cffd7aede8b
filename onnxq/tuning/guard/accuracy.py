"""Never worse: which nodes go back to float because of what they do to the outputs, worst first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from onnxq.graph.walk import nodes
from onnxq.tuning.draft import Draft, Make, keep
from onnxq.tuning.units import Unit, find_units
from onnxq.types.guarding import GuardStep
from onnxq.types.recipe import with_rules

if TYPE_CHECKING:
    import onnx_ir as ir


class Quality(Protocol):
    """Tells how good a quantized model is; `onnxq.tuning.limits.Limits` does by running it."""

    def shortfall(self, model: ir.Model) -> str | None:
        """Return in words how a model, as served, falls short of the budget, None if it does not."""
        ...

    def noise(self, draft: Draft) -> Mapping[str, float]:
        """Return noise over signal, in power, of each quantized node's output."""
        ...


@dataclass(kw_only=True)
class ErrorGuard:
    """Puts as few nodes in float as it takes to be good enough.

    Attributes:
        prepared: the float model that the plan names.
        make: makes a draft of a recipe.
        quality: judges it.
        steps: what was put back.
    """

    prepared: ir.Model
    make: Make
    quality: Quality
    steps: list[GuardStep] = field(default_factory=list)

    def improve(self, draft: Draft) -> Draft:
        """Return the draft with its worst nodes in float, as many as it takes: 1, 2, 4 ..., then the least that do."""
        problem = self.quality.shortfall(draft.model)
        if problem is None:
            return draft
        worst = self._worst_first(draft)
        failing, count = 0, 1
        while True:
            best = self._with_float(draft, worst[:count], problem)
            if count >= len(worst) or self.quality.shortfall(best.model) is None:
                break
            failing, count = count, min(2 * count, len(worst))
        passing = count
        while passing - failing > 1:
            count = (failing + passing) // 2
            tried = self._with_float(draft, worst[:count], problem)
            if self.quality.shortfall(tried.model) is None:
                passing, best = count, tried
            else:
                failing = count
        nodes = tuple(node for group in worst[:passing] for node in group.nodes)
        self.steps.append(GuardStep(why="error", nodes=nodes, text=problem))
        return best

    def _with_float(self, draft: Draft, groups: Sequence[Unit], problem: str) -> Draft:
        nodes = [node for group in groups for node in group.nodes]
        return self.make(with_rules(draft.recipe, keep(nodes, "error", f"too much error: {problem}")))

    def _worst_first(self, draft: Draft) -> list[Unit]:
        """Return the groups by the noise that they add to what they read."""
        noise = self.quality.noise(draft)
        paths = {node: path for path, node in nodes(self.prepared)}
        carried: dict[str, float] = {}
        added: dict[str, float] = {}
        for node, path in paths.items():
            producers = (value.producer() for value in node.inputs if value is not None)
            read = max((carried[paths[each]] for each in producers if each in paths), default=0.0)
            carried[path] = noise.get(path, read)
            added[path] = max(carried[path] - read, 0.0) if math.isfinite(carried[path]) else math.inf
        parts = find_units(self.prepared, (draft.plan,))
        return sorted(parts, key=lambda part: -max(added.get(node, 0.0) for node in part.nodes))
