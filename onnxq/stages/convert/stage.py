"""A model that was imported quantized in another format than the one asked for is written in that one.

    QDQ <-> QOperator                              calibrated groups; a float weight behind a pair counts, too
    DequantizeLinear of blocks <-> MatMulNBits     products with quantized weights, however moved; by `portable`
    Gather of codes, DequantizeLinear <-> GatherBlockQuantized      rows of quantized tables; by `portable`, too
    products that quantize at run time -> either form of quantized weights; calibrated ones, see `imported_weights`

No number is computed anew: scales, zero points and codes stay what they are. Nodes without a form in the new format
stay in the old one, and so do those that the recipe gives another format or keeps.
"""

from __future__ import annotations

import glob
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from onnxq.errors import PlanError
from onnxq.graph.fingerprint import fingerprint
from onnxq.graph.walk import nodes
from onnxq.ops import op_key
from onnxq.passes.emit.drop_inferred import declared_values
from onnxq.passes.read.dynamic import holds_dynamic
from onnxq.passes.read.zero_points import settle_zero_points, unsettled
from onnxq.stages.convert.examine import around_faults, examine_imported
from onnxq.stages.convert.imported_codes import ImportedCodes
from onnxq.stages.convert.imported_weights import (
    ImportedWeights,
    after_preparing,
    lift_weights,
    with_imported_weights,
)
from onnxq.stages.convert.reading import read, readable, wanted_by
from onnxq.stages.plan import make_imported_plan
from onnxq.stages.plan.examined import examine
from onnxq.stages.prepare import Prepared, prepare
from onnxq.stages.rewrite import rewrite
from onnxq.targets import Target
from onnxq.targets.faults import WriteRequest, notes_on
from onnxq.types.plan import ALREADY, IMPORTED, Action, Decision, Detour, Plan, Reason
from onnxq.types.recipe import Recipe, with_rules
from onnxq.types.rule import Match, Rule

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Converted:
    """What became of a model that was imported quantized in another format than the one asked for.

    Attributes:
        model: in the format asked for, None where nothing was rewritten.
        written: path names of nodes that were rewritten, and what they are now.
        unconverted: path names of nodes that have no such form, and why.
        message: a sentence about it.
        weights: of products that are now float ones, to be planned.
    """

    model: ir.Model | None = None
    written: Mapping[str, str] = field(default_factory=dict)
    unconverted: Mapping[str, str] = field(default_factory=dict)
    message: str
    weights: ImportedWeights = field(default_factory=ImportedWeights)


def convert(
    model: ir.Model,
    prepared: ir.Model,
    recipe: Recipe,
    target: Target,
    *,
    ranges: bool = False,
    unfit: Mapping[str, str] | None = None,
) -> Converted | None:
    """Write imported nodes in the recipe's format; None where there is nothing that has another form.

    Args:
        model: as loaded.
        prepared: the same, prepared.
        recipe: of a settled format.
        target: what will run it.
        ranges: whether calibration can observe those of activations.
        unfit: path names of products that stay unchanged, and why.
    """
    if not recipe.format.static or not holds_dynamic(prepared):
        return _rewritten(model, prepared, recipe, target)
    unconverted = dict(unfit or {})
    # What a guard put back in float goes back to run time, when it is replayed, too.
    guarded = wanted_by(recipe, target, unconverted, guarded=True)

    def wanted(name: str, op: str, weighted: bool = True) -> bool:  # LSTM has no other form in these formats
        return bool(target.rows_for(op, recipe.format)) and guarded(name, op, weighted)

    lifted, weights, refused = lift_weights(
        prepared, wanted, lambda lifted, weights: _faulty(lifted, weights, recipe, target)
    )
    unconverted |= refused
    hindrance = _hindrance(recipe, ranges=ranges)
    if weights.names and hindrance is not None:
        unconverted |= dict.fromkeys(weights.names, hindrance)
        lifted, weights = prepared, ImportedWeights()
    rest = _rewritten(model, lifted, recipe, target)
    messages = [] if rest is None else [rest.message]
    if weights.names:
        messages.append(f"{len(weights.names)} imported nodes, quantized at run time, are calibrated, with {_THEIRS}")
    if unconverted:
        messages.append(_unconverted_text(unconverted, recipe))
    written = None if rest is None else rest.model
    if weights.names and written is None:
        nothing = Plan(
            format=recipe.format, target=target.name, fingerprint=fingerprint(lifted), decisions=(), tensors={}
        )
        written, _ = rewrite(lifted, nothing, declared=declared_values(model))
    rest = rest or Converted(message="")
    if written is None and not unconverted and not rest.unconverted:
        return None
    return Converted(
        model=written,
        written=rest.written,
        unconverted={**unconverted, **rest.unconverted},
        message="; ".join(messages),
        weights=weights,
    )


def convert_and_prepare(
    model: ir.Model, prepared: Prepared, recipe: Recipe, target: Target, *, ranges: bool, options: Mapping[str, Any]
) -> tuple[Converted | None, Prepared]:
    """Write imported nodes in the recipe's format, and prepare the result, which must not change any codes.

    Args:
        model, recipe, target, ranges: as for `convert`.
        prepared: the model, prepared.
        options: of preparing.
    """
    unfit: dict[str, str] = {}
    while True:  # what preparing does to weights shows when it is done, and what it then does to others, too
        converted = _settled(convert(model, prepared.model, recipe, target, ranges=ranges, unfit=unfit), prepared.model)
        if converted is None or converted.model is None:
            return converted, prepared
        again = prepare(converted.model, **options)
        weights, lost = after_preparing(converted.weights, again.model)
        if not lost:
            return replace(converted, weights=weights), again
        unfit |= dict.fromkeys(lost, "preparing the model changes its weight")


def _settled(converted: Converted | None, prepared: ir.Model) -> Converted | None:
    """Give what stays between QuantizeLinear and DequantizeLinear the zero points that its kernels want."""
    result = converted or Converted(message="")
    if not unsettled(result.model or prepared):
        return converted
    written = result.model or prepared.clone()
    messages = (settle_zero_points(written), result.message)
    return replace(result, model=written, message="; ".join(filter(None, messages)))


def _faulty(lifted: ir.Model, weights: ImportedWeights, recipe: Recipe, target: Target) -> dict[str, str]:
    """Return the products whose codes meet a fault of the runtime in every kernel that they could go to, and why."""
    present, opset, faulty = dict(nodes(lifted)), lifted.opset_imports.get("", 1), {}
    for name, weight in weights.names.items():
        constant, node, why = weights.constants[weight], present[name], ""
        for row in target.rows_for(op_key(node), recipe.format, portable=recipe.portable):
            usual = WriteRequest(
                node=node,
                opset=opset,
                row=row,
                activations=weights.activations[name],
                weights=constant.params.scheme,
                slots=(1,),
                portable=recipe.portable,
                lowest_code=constant.lowest,
            )
            written = around_faults(usual, target.faults)
            why = written if isinstance(written, str) else ""
            if not why:
                break
        if why:
            faulty[name] = why
    return faulty


def _hindrance(recipe: Recipe, *, ranges: bool) -> str | None:
    """Return why products that quantize at run time are not calibrated, None if they are."""
    if recipe.equalize:
        return "it is quantized, and equalizing moves scales into weights; take `equalize` out"
    if recipe.search:
        return "it is quantized, and a search looks for others; take `search` out"
    return None if ranges else f"give calibration data to write it in format {recipe.format}"


def _rewritten(model: ir.Model, prepared: ir.Model, recipe: Recipe, target: Target) -> Converted | None:
    """Write what has another form, except for products to be calibrated."""
    base = readable(model, prepared, recipe, target)
    if base is None:
        return None
    reading = read(base, recipe, target)
    examined = examine_imported(reading.model, reading.imported, recipe, target)
    in_form = examined.in_form - reading.expanded.nodes.keys()
    unconverted = {**reading.unread, **reading.stuck, **(examined.refused if reading.is_worthwhile else {})}
    if len(unconverted) > len(reading.unread):
        reading = read(base, recipe, target, without=unconverted)
        examined = examine_imported(reading.model, reading.imported, recipe, target)
        unconverted |= reading.unread
    unconverted = {name: why for name, why in unconverted.items() if name not in in_form}
    if not reading.is_worthwhile:
        return (
            Converted(message=_unconverted_text(unconverted, recipe), unconverted=unconverted) if unconverted else None
        )
    if examined.refused:
        raise PlanError("; ".join(f"'{name}': {why}" for name, why in examined.refused.items()))
    plan = make_imported_plan(reading.model, examined.entries, reading.imported, recipe, target)
    written, _ = rewrite(
        reading.model,
        plan,
        chosen=ImportedCodes(plan, reading.imported.constants),
        declared=declared_values(model),
    )
    unpacked, settled = reading.unpacked, reading.expanded.settled
    count = len(reading.imported.groups) + len(unpacked)
    messages = [f"{count} imported nodes are written in format {recipe.format} with {_THEIRS}"] * (count > 0)
    messages = [f"{message}, except: {'; '.join(plan.warnings)}" if plan.warnings else message for message in messages]
    if settled:
        level = f"accuracy level {recipe.accuracy_level}"
        messages.append(f"{len(settled)} MatMulNBits nodes came with another than {level}, and get that")
    around = notes_on([Detour.CONTRIB_LINEAR], target.faults) if reading.lacks_linear else ()
    return Converted(
        model=written,
        written={
            **{entry.node: entry.reason.text for entry in plan.decisions if entry.action is Action.QUANTIZE},
            **{
                name: "; ".join((f"imported, quantized at run time; {_UNPACKS} {op} runs in float", *around))
                for name, op in unpacked.items()
            },
            **dict.fromkeys(settled, f"is quantized already, now at accuracy level {recipe.accuracy_level}"),
        },
        unconverted=unconverted,
        message="; ".join([*messages, *([_unconverted_text(unconverted, recipe)] if unconverted else [])]),
    )


def with_imported(plan: Plan, model: ir.Model, converted: Converted, faults: Collection[str] = ()) -> Plan:
    """Return the plan of a converted model with imported codes, and with what became of imported nodes as reasons.

    Args:
        plan: of the model.
        model: what conversion returned, prepared.
        converted: what it did.
        faults: names of those that plans go around.
    """

    def with_reason(decision: Decision) -> Decision:
        if decision.action is Action.QUANTIZE:
            notes = notes_on(decision.detours, faults) if decision.reason.code in (IMPORTED, ALREADY) else ()
            text = "; ".join((decision.reason.text, *notes))
            return replace(decision, reason=replace(decision.reason, text=text)) if notes else decision
        if decision.node in converted.written:
            return replace(decision, reason=Reason(code=IMPORTED, text=converted.written[decision.node]))
        if decision.node in converted.unconverted:
            text = f"stays unchanged: {converted.unconverted[decision.node]}"
            return replace(decision, reason=Reason(code=ALREADY, text=text))
        return decision

    plan = with_imported_weights(plan, model, converted.weights)
    return replace(plan, decisions=tuple(map(with_reason, plan.decisions)))


def with_rest_in_float(model: ir.Model, recipe: Recipe, target: Target) -> Recipe:
    """Return the recipe with a rule that keeps in float what was imported so and needs ranges: for lack of data.

    Args:
        model: converted and prepared.
        recipe: to add to.
        target: what will run the model.
    """
    candidates = examine(model, recipe, target).candidates
    names = [each.name for each in candidates if each.request.format.static]
    if not names:
        return recipe
    match = Match(name=tuple(glob.escape(name) for name in names))
    rule = Rule(
        match=match, keep="float", because="came in float; give calibration data to quantize it, too", optional=True
    )
    return with_rules(recipe, [rule])


_UNPACKS = "DequantizeLinear unpacks its weights before"
_THEIRS = "their own scales, zero points and codes"


def _unconverted_text(unconverted: Mapping[str, str], recipe: Recipe) -> str:
    some = "; ".join(f"'{name}': {why}" for name, why in list(unconverted.items())[:3])
    return f"{len(unconverted)} imported nodes stay unchanged, not in the form of format {recipe.format} ({some})"
