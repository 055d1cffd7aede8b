"""One unit quantized and all others in float: made as any draft, and judged as served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxq.graph.tensors import total_bytes
from onnxq.tuning.draft import Make
from onnxq.tuning.limits import Limits
from onnxq.tuning.search.choices import Choice, rules_for
from onnxq.tuning.units import Unit
from onnxq.types.recipe import Recipe, with_rules
from onnxq.types.rule import Match, Rule
from onnxq.types.sensitivity import Effect

if TYPE_CHECKING:
    import onnx_ir as ir

_NOTHING = Rule(match=Match(name="*"), keep="float", because="to see one part alone")


def isolated_recipe(base: Recipe, unit: Unit, choices: Sequence[Choice], way: int) -> Recipe:
    """Return the recipe that quantizes one unit and nothing else, whatever that costs in time."""
    nodes = {node: unit.nodes[node] for node in unit.by_plan[way]}
    return with_rules(base, (_NOTHING, *rules_for(choices[way], nodes))).model_copy(update={"placement": "everywhere"})


def isolated_effect(
    recipe: Recipe,
    unit: Unit,
    way: str,
    *,
    make: Make,
    limits: Limits,
    prepared: ir.Model,
    metric: bool = False,
    samples: int | None = None,
) -> Effect | None:
    """Return what a unit does alone, None where that quantizes nothing.

    Args:
        recipe: of `isolated_recipe`.
        unit: that it quantizes.
        way: name of the choice.
        make: makes a draft.
        limits: judges it.
        prepared: the float model in its normal form.
        metric: whether to score it, too.
        samples: to compare outputs on, None for as many as the limits have.
    """
    draft = make(recipe)
    if not draft.quantized:
        return None
    figures = limits.figures(draft.model, metric=metric, samples=samples)
    return Effect(
        nodes=draft.quantized,
        ops=tuple(dict.fromkeys(unit.nodes.get(node, "") for node in draft.quantized)),
        way=way,
        outputs=dict(figures.outputs),
        metric=None if figures.metric is None else figures.metric.quantized_value,
        saved=total_bytes(prepared) - total_bytes(draft.model),
    )
