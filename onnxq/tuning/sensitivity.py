"""sensitivity: what each layer, and each tensor, does to the outputs when it alone is quantized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from onnxq.graph.tensors import total_bytes
from onnxq.progress import Progress, Silent, step
from onnxq.stages.rewrite import simulate
from onnxq.tuning.draft import Draft, Make
from onnxq.tuning.limits import Limits
from onnxq.tuning.search.choices import OWN, Choice, base_recipe
from onnxq.tuning.search.isolated import isolated_effect, isolated_recipe
from onnxq.tuning.units import find_units
from onnxq.types.plan import Action, Decision, Plan, Role
from onnxq.types.sensitivity import Effect, Sensitivity, TensorEffect
from onnxq.types.statistics import Statistics

if TYPE_CHECKING:
    import onnx_ir as ir


def sensitivity(
    draft: Draft,
    make: Make,
    *,
    prepared: ir.Model,
    statistics: Statistics,
    limits: Limits,
    tensors: bool = True,
    metric: bool = False,
    progress: Progress | None = None,
) -> Sensitivity:
    """Quantize each unit of a draft alone, and each of its tensors alone, and compare the outputs as served.

    A unit is made and run as the draft would be; it reads quantized values and, where its kernel must, returns them. Of
    a tensor alone only the rounding can be seen, in float arithmetic: no kernel takes one quantized input.

    Args:
        draft: with all that is looked at.
        make: makes others.
        prepared: the float model in its normal form.
        statistics: of all tensors that could be quantized.
        limits: compares models with the float one.
        tensors: look at single tensors, too.
        metric: score every model, too.
        progress: reports each.
    """
    began, progress = perf_counter(), progress or Silent()
    choice = Choice(name=OWN, recipe=draft.recipe)
    base = base_recipe(draft.recipe, (choice,))
    parts = find_units(prepared, (draft.plan,))
    effects: list[Effect] = []
    with step(progress, len(parts), "layers alone"):
        for part in parts:
            recipe = isolated_recipe(base, part, (choice,), 0)
            effect = isolated_effect(
                recipe, part, str(draft.plan.format), make=make, limits=limits, prepared=prepared, metric=metric
            )
            if effect is not None:
                effects.append(effect)
            progress.advance(1)
    whole = limits.figures(draft.model, metric=metric)
    score = whole.metric
    single = list(_tensors(draft.plan)) if tensors else []
    rounded: list[TensorEffect] = []
    with step(progress, len(single), "tensors alone"):
        for key in single:
            rounded.append(_rounded(draft.plan, key, prepared, statistics, limits, metric=metric))
            progress.advance(1)
    return Sensitivity(
        units=tuple(sorted(effects, key=lambda effect: effect.sqnr)),
        tensors=tuple(sorted(rounded, key=lambda effect: effect.sqnr)),
        whole=Effect(
            nodes=draft.quantized,
            ops=tuple(dict.fromkeys(entry.op for entry in draft.plan.decisions if entry.action is Action.QUANTIZE)),
            way=str(draft.plan.format),
            outputs=dict(whole.outputs),
            metric=None if score is None else score.quantized_value,
            saved=total_bytes(prepared) - total_bytes(draft.model),
        ),
        metric=None if score is None else score.name,
        float_metric=None if score is None else score.float_value,
        samples=limits.samples,
        data=limits.data,
        seconds=perf_counter() - began,
    )


def only(plan: Plan, key: str) -> Plan:
    """Return a plan in which one tensor alone is quantized."""
    return replace(
        plan,
        decisions=tuple(_only(decision, key) for decision in plan.decisions),
        tensors={key: plan.tensors[key]},
        constants={},
        bias_corrections={},
    )


def _only(decision: Decision, key: str) -> Decision:
    inputs, outputs = (_holding(slots, key) for slots in (decision.inputs, decision.outputs))
    if inputs or outputs:
        return replace(decision, inputs=inputs, outputs=outputs, float_type=None)
    nothing: dict[str, Any] = dict.fromkeys(("format", "kernel", "accuracy_level", "float_type"))
    return replace(decision, action=Action.KEEP, inputs={}, outputs={}, **nothing)


def _holding(slots: Mapping[int, str], key: str) -> dict[int, str]:
    return {slot: name for slot, name in slots.items() if name == key}


def _tensors(plan: Plan) -> Iterator[str]:
    """Yield the tensors that can be looked at alone; a bias has the scales of two others."""
    return (key for key, tensor in plan.tensors.items() if tensor.role is not Role.BIAS)


def _rounded(
    plan: Plan, key: str, prepared: ir.Model, statistics: Statistics, limits: Limits, *, metric: bool
) -> TensorEffect:
    model = simulate(prepared, only(plan, key), statistics=statistics)
    figures, tensor = limits.figures(model, metric=metric), plan.tensors[key]
    return TensorEffect(
        tensor=key,
        role=str(tensor.role),
        scheme=str(tensor.scheme),
        nodes=tuple(
            decision.node
            for decision in plan.decisions
            if key in (*decision.inputs.values(), *decision.outputs.values())
        ),
        outputs=dict(figures.outputs),
        metric=None if figures.metric is None else figures.metric.quantized_value,
    )
