"""One unit quantized and all others in float: made as any draft, and judged as served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxq.graph.tensors import total_bytes
from onnxq.tuning.draft import Make
from onnxq.tuning.limits import Limits
from onnxq.tuning.search.choices import Way, follow
from onnxq.tuning.search.units import Unit
from onnxq.types.recipe import Match, Recipe, Rule, with_rules
from onnxq.types.sensitivity import Effect

if TYPE_CHECKING:
    import onnx_ir as ir

_NOTHING = Rule(match=Match(name="*"), keep="float", because="to see one part alone")


def recipe_alone(base: Recipe, unit: Unit, ways: Sequence[Way], way: int) -> Recipe:
    """Return the recipe that quantizes one unit and nothing else, whatever that costs in time."""
    nodes = {node: unit.nodes[node] for node in unit.by_way[way]}
    return with_rules(base, (_NOTHING, *follow(ways[way], nodes))).model_copy(update={"placement": "everywhere"})


def effect_alone(
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
        recipe: of `recipe_alone`. unit: that it quantizes. way: its name. make: makes a draft. limits: judges it.
        prepared: the float model in its normal form. metric: whether to score it, too. samples: to compare
            outputs on, None for as many as the limits have.
    """
    draft = make(recipe)
    if not draft.quantized:
        return None
    found = limits.figures(draft.model, metric=metric, samples=samples)
    return Effect(
        nodes=draft.quantized,
        ops=tuple(dict.fromkeys(unit.nodes.get(node, "") for node in draft.quantized)),
        way=way,
        outputs=dict(found.outputs),
        metric=None if found.metric is None else found.metric.quantized_value,
        saved=total_bytes(prepared) - total_bytes(draft.model),
    )
