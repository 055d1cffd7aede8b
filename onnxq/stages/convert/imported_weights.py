"""Products that quantize at run time, in a format that calibrates: their inputs get ranges, their codes stay.

On the way through the stages such a product is a float one, with its weight as a float constant. The plan is made as
for any model, and then the codes take their place in it again. Where the plan leaves a product in float, it goes on to
quantize at run time: float weights would be four times as large.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxq.graph.constants import constant_tensor
from onnxq.graph.walk import nodes
from onnxq.graph.writer import drop_unread
from onnxq.ops import facts, op_key
from onnxq.passes.read.constants import Constant, rescaled
from onnxq.passes.read.dynamic import expand_dynamic
from onnxq.passes.read.lookups import Wanted
from onnxq.passes.read.qdq import lift
from onnxq.stages.convert.reading import CALIBRATED
from onnxq.stages.plan.imported import REASON, Refitted, refitted, runs_as, warning_about
from onnxq.stages.plan.kernel_choice import is_shifted_by_128
from onnxq.types.choices import WeightChoice
from onnxq.types.format import Format
from onnxq.types.plan import ALREADY, IMPORTED, Action, Decision, Plan, Reason, Role, TensorPlan
from onnxq.types.recipe import Recipe
from onnxq.types.rule import Match, Rule
from onnxq.types.scheme import PerChannel, PerTensor, QuantType, Scheme

if TYPE_CHECKING:
    import onnx_ir as ir

_INTEGER = {"MatMul": "MatMulInteger", "Gemm": "MatMulInteger", "Conv": "ConvInteger"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedWeights:
    """Weights whose codes a model was imported with, of products that quantize at run time.

    Attributes:
        constants: by name of the float constant.
        names: name of the float constant, by path name of the product that reads it.
        activations: how a product's input was quantized at run time, by path name.
    """

    constants: Mapping[str, Constant] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    activations: Mapping[str, Scheme] = field(default_factory=dict)


def lift_weights(
    model: ir.Model, wanted: Wanted, refuses: Callable[[ir.Model, ImportedWeights], Mapping[str, str]]
) -> tuple[ir.Model, ImportedWeights, dict[str, str]]:
    """Write products that quantize at run time as float ones with float weights.

    Args:
        model: prepared; stays unchanged.
        wanted: returns whether a product is meant.
        refuses: returns why products cannot be written in any other form, by path name, from a model with all that are
            wanted as float ones, and their weights.

    Returns:
        A copy, the imported weights, and by path name why products that were wanted stay unchanged.
    """
    lifted, weights, refused = _lifted(model, wanted)
    refused |= refuses(lifted, weights)
    if refused:
        lifted, weights, _ = _lifted(
            model, lambda name, op, weighted=True: name not in refused and wanted(name, op, weighted)
        )
    return lifted, weights, refused


def _lifted(model: ir.Model, wanted: Wanted) -> tuple[ir.Model, ImportedWeights, dict[str, str]]:
    """Return a copy with products as float ones, their weights, and by path name why others are not."""
    lifted = model.clone()
    expanded = expand_dynamic(lifted, wanted)
    imported = lift(lifted, lambda name, node: name in expanded.nodes, weights_only=True)
    drop_unread(lifted)
    names = {name: _weight(node) for name, node in nodes(lifted) if name in imported.groups}
    stuck = sorted(expanded.nodes.keys() - imported.groups.keys())
    refused = expanded.left | {name: imported.left.get(name, CALIBRATED) for name in stuck}
    weights = ImportedWeights(constants=imported.constants, names=names, activations=expanded.activations)
    return lifted, weights, refused


def after_preparing(weights: ImportedWeights, prepared: ir.Model) -> tuple[ImportedWeights, frozenset[str]]:
    """Return the weights as preparing the model leaves them, and the products of which that changes other things.

    Scales of channels behind a convolution go into its weight: its scales then, and the signs of its codes.

    Args:
        weights: of the model.
        prepared: the same model, prepared.
    """
    constants, lost, present = dict(weights.constants), set(), dict(nodes(prepared))
    for name, weight in weights.names.items():
        node = present.get(name)
        tensor = None if node is None else constant_tensor(node.inputs[1])
        if node is None or tensor is None or op_key(node) not in _INTEGER or _weight(node) != weight:
            lost.add(name)
            continue
        constant, values = weights.constants[weight], tensor.numpy()
        if not np.array_equal(values, constant.values()):
            scaled = rescaled(constant, values) if op_key(node) == "Conv" else None
            if scaled is None:
                lost.add(name)
            else:
                constants[weight] = scaled
    return replace(weights, constants=constants), frozenset(lost)


def with_rules_for(recipe: Recipe, weights: ImportedWeights) -> Recipe:
    """Return the recipe with rules in front that ask for the types and granularities that weights have already."""
    rules = [rule for rule in _rules(weights) if rule not in recipe.rules]  # a report's recipe has them
    return recipe.model_copy(update={"rules": (*rules, *recipe.rules)})


def _rules(weights: ImportedWeights) -> Iterator[Rule]:
    by_choice: dict[tuple[QuantType, bool, bool], list[str]] = {}
    for name, weight in weights.names.items():
        scheme = weights.constants[weight].params.scheme
        place = (scheme.dtype, scheme.symmetric, isinstance(scheme.granularity, PerChannel))
        by_choice.setdefault(place, []).append(name)
    for (dtype, symmetric, per_channel), names in by_choice.items():
        granularity = PerChannel() if per_channel else PerTensor()
        yield Rule(
            match=Match(name=tuple(glob.escape(name) for name in names)),
            weights=WeightChoice(dtype=dtype, symmetric=symmetric, granularity=granularity, method="rtn"),
            optional=True,
        )


def with_imported_weights(plan: Plan, model: ir.Model, weights: ImportedWeights) -> Plan:
    """Return a plan that keeps the codes of imported weights.

    Args:
        plan: of the model with float weights.
        model: that one, prepared.
        weights: those whose codes to take.
    """
    if not weights.names:
        return plan
    present, tensors, decisions = dict(nodes(model)), dict(plan.tensors), []
    refitted_weights: list[Refitted] = []
    for decision in plan.decisions:
        weight = weights.names.get(decision.node)
        if weight is None:
            decisions.append(decision)
        elif _is_calibrated(decision) and not _takes(plan, decision, weights.constants[weight]):
            text = f"{decision.reason.text}; its weight's codes are chosen again: a rule asks for others than it had"
            decisions.append(replace(decision, reason=replace(decision.reason, text=text)))
        elif _is_calibrated(decision):
            key = decision.inputs[1]
            constant, limit = weights.constants[weight], tensors[key].pairs
            tensors[key] = _imported(tensors[key], constant, unsigned=tensors[key].scheme.dtype is QuantType.UINT8)
            again = refitted(tensors[key], constant, limit)
            if again is not None:
                refitted_weights.append(again)
                tensors[key] = again.tensor
            origin, parts = "imported, quantized at run time", "its codes and calibrated inputs"
            text = runs_as(decision.kernel or "", origin, parts, again)
            decisions.append(replace(decision, reason=Reason(code=IMPORTED, text=text)))
        else:
            decisions.append(_at_run_time(decision, present[decision.node], weights, tensors))
    in_float = {decision.node for decision in decisions if decision.format is Format.DYNAMIC}
    codes = {weight for name, weight in weights.names.items() if name in in_float}
    constants = {name: how for name, how in plan.constants.items() if name not in codes}
    warnings = (*plan.warnings, *filter(None, [warning_about(refitted_weights)]))
    return replace(plan, decisions=tuple(decisions), tensors=tensors, constants=constants, warnings=warnings)


def is_unchanged(plan: Plan, weights: ImportedWeights) -> bool:
    """Return whether a plan changes nothing: products alone, which it leaves to quantize at run time."""
    changed = [decision for decision in plan.decisions if decision.action is Action.QUANTIZE]
    return bool(changed) and all(
        decision.node in weights.names and decision.format is Format.DYNAMIC for decision in changed
    )


def _weight(node: ir.Node) -> str:
    value = node.inputs[facts.get(op_key(node)).weight or 0]
    return "" if value is None or value.name is None else value.name


def _is_calibrated(decision: Decision) -> bool:
    """Return whether a product's input has parameters from calibration."""
    return decision.action is Action.QUANTIZE and decision.format is not None and decision.format.static


def _takes(plan: Plan, decision: Decision, constant: Constant) -> bool:
    """Return whether a decision reads a weight in its imported form, or int8 with zero points as uint8."""
    wanted, own = plan.tensors[decision.inputs[1]].scheme, constant.params.scheme
    shifted = wanted.dtype is QuantType.UINT8 and is_shifted_by_128(own)
    return (wanted.dtype is own.dtype or shifted) and wanted.granularity == own.granularity


def _imported(tensor: TensorPlan, constant: Constant, *, unsigned: bool = False) -> TensorPlan:
    """Return the plan of an imported weight; `unsigned`: int8 codes and zero points become uint8, 128 higher."""
    scheme = constant.params.scheme
    return replace(
        tensor,
        scheme=replace(scheme, dtype=QuantType.UINT8) if unsigned else scheme,
        method=None,
        features_from=(),
        feature_axis=None,
        pairs=None,
        in_float=None,
        reason=REASON,
    )


def _at_run_time(
    decision: Decision, node: ir.Node, weights: ImportedWeights, tensors: dict[str, TensorPlan]
) -> Decision:
    """Return a decision that leaves a product to quantize at run time, and plan its tensors."""
    weight, scheme = weights.names[decision.node], weights.activations[decision.node]
    x = "" if node.inputs[0] is None else node.inputs[0].name or ""
    keys = {0: f"{x}@dynamic-{scheme.dtype}-{'symmetric' if scheme.symmetric else 'asymmetric'}", 1: weight}
    text = "quantized at run time"
    tensors[keys[0]] = TensorPlan(name=keys[0], tensor=x, role=Role.ACTIVATION, scheme=scheme, reason=text)
    tensors[keys[1]] = _imported(
        TensorPlan(name=keys[1], tensor=weight, role=Role.WEIGHT, scheme=scheme), weights.constants[weight]
    )
    why = decision.reason.text if decision.action is Action.KEEP else "a rule asks for another format"
    return replace(
        decision,
        action=Action.QUANTIZE,
        reason=Reason(code=ALREADY, text=f"stays unchanged, quantized at run time: {why}"),
        format=Format.DYNAMIC,
        inputs=keys,
        outputs={},
        kernel=_INTEGER[decision.op],
        accuracy_level=None,
        float_type=None,
        float_reason=None,
    )
