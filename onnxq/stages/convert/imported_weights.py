"""Products that quantize at run time, in a format that calibrates: their inputs get ranges, their codes stay.

On the way through the stages such a product is a float one, with its weight as a float constant. The plan is made as
for any model, and then the codes take their place in it again. Where the plan leaves a product in float, it is written
as it came, to quantize at run time: float weights would be four times as large.
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
from onnxq.passes.emit.constants import Chosen
from onnxq.passes.read.constants import Constant, rescaled
from onnxq.passes.read.dynamic import expand_dynamic
from onnxq.passes.read.lookups import Wanted
from onnxq.passes.read.qdq import lift
from onnxq.stages.convert.reading import CALIBRATED
from onnxq.stages.plan.already_quantized import ALREADY, IMPORTED
from onnxq.stages.plan.imported import REASON, Refitted, pair_safe, refitted, warning_about
from onnxq.stages.plan.kernel_choice import is_shifted_by_128
from onnxq.types.format import Format
from onnxq.types.plan import Action, Decision, Plan, Reason, Role, TensorPlan
from onnxq.types.recipe import Match, Recipe, Rule, WeightChoice
from onnxq.types.scheme import PerChannel, PerTensor, QuantType, Scheme

if TYPE_CHECKING:
    import onnx_ir as ir

_INTEGER = {"MatMul": "MatMulInteger", "Gemm": "MatMulInteger", "Conv": "ConvInteger"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedWeights:
    """Weights whose codes a model was imported with, of products that quantize at run time.

    Attributes:
        constants: by name of the float constant. names: that name, by path name of the product that reads it.
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
        model: prepared; stays as it is. wanted: tells which.
        refuses: returns why products cannot be written in any other form, by path name, from a model with all that are
            wanted as float ones, and their weights.

    Returns:
        A copy, the imported weights, and by path name why products that were wanted stay as they are.
    """
    lifted, weights, refused = _lifted(model, wanted)
    refused |= refuses(lifted, weights)
    if refused:
        lifted, weights, _ = _lifted(
            model, lambda name, op, weighted=True: name not in refused and wanted(name, op, weighted)
        )
    return lifted, weights, refused


def _lifted(model: ir.Model, wanted: Wanted) -> tuple[ir.Model, ImportedWeights, dict[str, str]]:
    """Return a copy with products as float ones, their weights, and why others are not to be that, by path name."""
    lifted = model.clone()
    expanded = expand_dynamic(lifted, wanted)
    imported = lift(lifted, lambda name, node: name in expanded.nodes, weights_only=True)
    drop_unread(lifted)
    names = {name: _weight(node) for name, node in nodes(lifted) if name in imported.groups}
    stuck = sorted(expanded.nodes.keys() - imported.groups.keys())
    refused = expanded.left | {name: imported.left.get(name, CALIBRATED) for name in stuck}
    weights = ImportedWeights(constants=imported.constants, names=names, activations=expanded.activations)
    return lifted, weights, refused


def settled(known: ImportedWeights, prepared: ir.Model) -> tuple[ImportedWeights, frozenset[str]]:
    """Return the weights as preparing the model leaves them, and the products of which that changes other things.

    Scales of channels behind a convolution go into its weight: its scales then, and the signs of its codes.

    Args:
        known: of the model. prepared: the same model, prepared.
    """
    constants, lost, present = dict(known.constants), set(), dict(nodes(prepared))
    for name, weight in known.names.items():
        node = present.get(name)
        tensor = None if node is None else constant_tensor(node.inputs[1])
        if node is None or tensor is None or op_key(node) not in _INTEGER or _weight(node) != weight:
            lost.add(name)
            continue
        held, values = known.constants[weight], tensor.numpy()
        if not np.array_equal(values, held.values()):
            found = rescaled(held, values) if op_key(node) == "Conv" else None
            if found is None:
                lost.add(name)
            else:
                constants[weight] = found
    return replace(known, constants=constants), frozenset(lost)


def with_rules_for(recipe: Recipe, known: ImportedWeights) -> Recipe:
    """Return the recipe with rules in front that ask for the types and granularities that the weights came with."""
    rules = [rule for rule in _rules(known) if rule not in recipe.rules]  # a report's recipe has them
    return recipe.model_copy(update={"rules": (*rules, *recipe.rules)})


def _rules(known: ImportedWeights) -> Iterator[Rule]:
    by_choice: dict[tuple[QuantType, bool, bool], list[str]] = {}
    for name, weight in known.names.items():
        scheme = known.constants[weight].params.scheme
        place = (scheme.dtype, scheme.symmetric, isinstance(scheme.granularity, PerChannel))
        by_choice.setdefault(place, []).append(name)
    for (dtype, symmetric, per_channel), names in by_choice.items():
        granularity = PerChannel() if per_channel else PerTensor()
        yield Rule(
            match=Match(name=tuple(glob.escape(name) for name in names)),
            weights=WeightChoice(dtype=dtype, symmetric=symmetric, granularity=granularity, method="rtn"),
            optional=True,
        )


def with_imported_weights(plan: Plan, model: ir.Model, known: ImportedWeights) -> Plan:
    """Return a plan that takes the codes that weights came with.

    Args:
        plan: of the model with float weights. model: that one, prepared. known: the weights.
    """
    if not known.names:
        return plan
    present, tensors, decisions = dict(nodes(model)), dict(plan.tensors), []
    fitted: list[Refitted] = []
    for decision in plan.decisions:
        weight = known.names.get(decision.node)
        if weight is None:
            decisions.append(decision)
        elif _is_calibrated(decision) and not _takes(plan, decision, known.constants[weight]):
            text = f"{decision.reason.text}; its weight's codes are chosen again: a rule asks for others than it had"
            decisions.append(replace(decision, reason=replace(decision.reason, text=text)))
        elif _is_calibrated(decision):
            key = decision.inputs[1]
            held, limit = known.constants[weight], tensors[key].pairs
            tensors[key] = _imported(tensors[key], held, unsigned=tensors[key].scheme.dtype is QuantType.UINT8)
            text = f"came quantized at run time; its codes and calibrated inputs run as {decision.kernel}"
            again = refitted(tensors[key], held, limit)
            if again is not None:
                fitted.append(again)
                tensors[key] = again.tensor
                how = f"on codes chosen again ({again.loss:.1f} dB from its own)"
                text = f"came quantized at run time; its weight, {how}, runs as {decision.kernel}"
            decisions.append(replace(decision, reason=Reason(code=IMPORTED, text=text)))
        else:
            decisions.append(_at_run_time(decision, present[decision.node], known, tensors))
    in_float = {decision.node for decision in decisions if decision.format is Format.DYNAMIC}
    codes = {weight for name, weight in known.names.items() if name in in_float}
    constants = {name: how for name, how in plan.constants.items() if name not in codes}
    warnings = (*plan.warnings, *filter(None, [warning_about(fitted)]))
    return replace(plan, decisions=tuple(decisions), tensors=tensors, constants=constants, warnings=warnings)


def is_unchanged(plan: Plan, known: ImportedWeights) -> bool:
    """Tell whether a plan changes nothing but products that quantize at run time, which it writes as they came."""
    changed = [decision for decision in plan.decisions if decision.action is Action.QUANTIZE]
    return bool(changed) and all(
        decision.node in known.names and decision.format is Format.DYNAMIC for decision in changed
    )


class ImportedCodes(Mapping[str, Chosen]):
    """The codes that constants came with, by plan key; unpacked when they are asked for.

    Where the plan limits pairs of an imported weight's codes, they are chosen again, and the biases on its scale, too.
    Weights for which the plan names a method are chosen by that. int8 codes that it makes uint8 are 128 higher.
    """

    def __init__(
        self, plan: Plan, constants: Mapping[str, Constant], others: Mapping[str, Chosen] | None = None
    ) -> None:
        """Take those constants of a plan that came on codes, and what is known of others."""
        self._others = others or {}
        self._tensors = plan.tensors
        self._limits = {key: tensor.pairs for key, tensor in plan.tensors.items() if tensor.pairs is not None}
        self._held: dict[str, Constant] = {
            key: constants[tensor.tensor]
            for key, tensor in plan.tensors.items()
            if tensor.tensor in constants and self._keeps_codes(tensor)
        }

    def _keeps_codes(self, tensor: TensorPlan) -> bool:
        """Return whether codes are not made from floats: of a bias, unless its weight's scale is another now."""
        if tensor.role is Role.BIAS:
            return tensor.scale_from is None or tensor.scale_from[1] not in self._limits
        return tensor.role is Role.WEIGHT and tensor.method is None

    def __getitem__(self, key: str) -> Chosen:
        if key not in self._held:
            return self._others[key]
        held, limit = self._held[key], self._limits.get(key)
        if limit is not None:
            return pair_safe(held, limit)
        codes, params, scheme = held.codes(), held.params, self._tensors[key].scheme
        if scheme.dtype is params.scheme.dtype:
            return codes, params
        return codes + 128, replace(params, scheme=scheme, zero_point=params.zero_point + 128)

    def __contains__(self, key: object) -> bool:
        """Return whether codes are known, without unpacking any."""
        return key in self._held or key in self._others

    def __iter__(self) -> Iterator[str]:
        return iter({**self._held, **self._others})

    def __len__(self) -> int:
        return len({**self._held, **self._others})


def _weight(node: ir.Node) -> str:
    value = node.inputs[facts.get(op_key(node)).weight or 0]
    return "" if value is None or value.name is None else value.name


def _is_calibrated(decision: Decision) -> bool:
    """Return whether a product's input has parameters from calibration."""
    return decision.action is Action.QUANTIZE and decision.format is not None and decision.format.static


def _takes(plan: Plan, decision: Decision, held: Constant) -> bool:
    """Return whether a decision reads a weight in the form that it came in, or int8 with zero points as uint8."""
    wanted, came = plan.tensors[decision.inputs[1]].scheme, held.params.scheme
    shifted = wanted.dtype is QuantType.UINT8 and is_shifted_by_128(came)
    return (wanted.dtype is came.dtype or shifted) and wanted.granularity == came.granularity


def _imported(tensor: TensorPlan, held: Constant, *, unsigned: bool = False) -> TensorPlan:
    """Return the plan of an imported weight; `unsigned`: int8 codes and zero points become uint8, 128 higher."""
    scheme = held.params.scheme
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


def _at_run_time(decision: Decision, node: ir.Node, known: ImportedWeights, tensors: dict[str, TensorPlan]) -> Decision:
    """Return a decision that quantizes a product's input at run time, as it came, and plan its tensors."""
    weight, scheme = known.names[decision.node], known.activations[decision.node]
    x = "" if node.inputs[0] is None else node.inputs[0].name or ""
    keys = {0: f"{x}@dynamic-{scheme.dtype}-{'symmetric' if scheme.symmetric else 'asymmetric'}", 1: weight}
    text = "quantized at run time"
    tensors[keys[0]] = TensorPlan(name=keys[0], tensor=x, role=Role.ACTIVATION, scheme=scheme, reason=text)
    tensors[keys[1]] = _imported(
        TensorPlan(name=keys[1], tensor=weight, role=Role.WEIGHT, scheme=scheme), known.constants[weight]
    )
    why = decision.reason.text if decision.action is Action.KEEP else "a rule asks for another format"
    return replace(
        decision,
        action=Action.QUANTIZE,
        reason=Reason(code=ALREADY, text=f"stays as it came, quantized at run time: {why}"),
        format=Format.DYNAMIC,
        inputs=keys,
        outputs={},
        kernel=_INTEGER[decision.op],
        accuracy_level=None,
        float_type=None,
        float_reason=None,
    )
