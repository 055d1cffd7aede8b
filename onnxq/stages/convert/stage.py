"""A model that is quantized in another format than the one asked for is written in that one, with what it came with.

    QDQ <-> QOperator                              calibrated groups; a float weight behind a pair counts, too
    DequantizeLinear of blocks <-> MatMulNBits     products with weights on codes, however moved; by `portable`
    Gather of codes, DequantizeLinear <-> GatherBlockQuantized      rows looked up on codes; the same
    products that quantize at run time -> either form of weights on codes; calibrated ones, see `imported_weights`

No number is computed anew: scales, zero points and codes stay what they are. What has no form in the new format stays
in the old one, and so does what the recipe gives another format or keeps.
"""

from __future__ import annotations

import glob
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from onnxq.errors import PlanError
from onnxq.graph.fingerprint import fingerprint
from onnxq.graph.walk import nodes
from onnxq.graph.writer import drop_unread
from onnxq.ops import facts, op_key
from onnxq.passes.emit.drop_inferred import declared_values
from onnxq.passes.read.dynamic import Expanded, expand_dynamic, holds_dynamic
from onnxq.passes.read.lookups import Wanted, expand_lookups, holds_lookups, join_lookups
from onnxq.passes.read.matmul_nbits import expand_blocks, holds_block_products, set_accuracy
from onnxq.passes.read.qdq import Imported, holds_dequantized, lift
from onnxq.passes.read.qoperator import expand, holds_integer_operators
from onnxq.passes.read.saturation import saturating
from onnxq.stages.convert.examine import around_faults, examine_imported
from onnxq.stages.convert.imported_weights import (
    CALIBRATED,
    ImportedCodes,
    ImportedWeights,
    lift_weights,
    settled,
)
from onnxq.stages.plan import make_imported_plan
from onnxq.stages.plan.already_quantized import ALREADY, IMPORTED
from onnxq.stages.plan.candidates import is_weighted
from onnxq.stages.plan.examined import examine
from onnxq.stages.plan.rules import request_for
from onnxq.stages.prepare import Prepared, prepare
from onnxq.stages.rewrite import rewrite
from onnxq.targets import Target
from onnxq.targets.faults import Fault, WriteRequest, notes_on, without_linear
from onnxq.types.format import Format
from onnxq.types.plan import Action, Decision, Detour, Plan, Reason
from onnxq.types.recipe import Match, Recipe, Rule, with_rules

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Converted:
    """What became of a model that came quantized in another format than the one asked for.

    Attributes:
        model: in the format asked for, None where nothing was written anew.
        nodes: path name of each node that was written anew -> why. left: of each that has no such form -> why.
        message: a sentence about it. weights: of products that are now float ones, to be planned.
    """

    model: ir.Model | None
    nodes: Mapping[str, str]
    left: Mapping[str, str]
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
    """Write what came quantized in the recipe's format; None where there is nothing that has another form.

    Args:
        model: as loaded. prepared: the same, prepared. recipe: of a settled format. target: what will run it.
        ranges: whether calibration can tell those of activations.
        unfit: path names of products that stay as they came, and why.
    """
    if not recipe.format.static or not holds_dynamic(prepared):
        return _rewritten(model, prepared, recipe, target)
    left = dict(unfit or {})
    # What a guard put back in float goes back to how it came, when it is replayed, too.
    guarded = _wanted(recipe, target, left, guarded=True)

    def wanted(name: str, op: str, weighted: bool = True) -> bool:  # LSTM has no other form in these formats
        return bool(target.rows_for(op, recipe.format)) and guarded(name, op, weighted)

    lifted, weights, refused = lift_weights(
        prepared, wanted, lambda lifted, weights: _faulty(lifted, weights, recipe, target)
    )
    left |= refused
    hindrance = _hindrance(recipe, ranges=ranges)
    if weights.names and hindrance is not None:
        left |= dict.fromkeys(weights.names, hindrance)
        lifted, weights = prepared, ImportedWeights()
    found = _rewritten(model, lifted, recipe, target)
    messages = [] if found is None else [found.message]
    if weights.names:
        messages.append(f"{len(weights.names)} nodes came quantized at run time and are calibrated, on {_THEIRS}")
    if left:
        messages.append(_stay(left, recipe))
    left |= {} if found is None else found.left
    written = None if found is None else found.model
    if weights.names and written is None:
        nothing = Plan(
            format=recipe.format, target=target.name, fingerprint=fingerprint(lifted), decisions=(), tensors={}
        )
        written, _ = rewrite(lifted, nothing, declared=declared_values(model))
    if written is None and not left:
        return None
    nodes = {} if found is None else found.nodes
    return Converted(model=written, nodes=nodes, left=left, message="; ".join(messages), weights=weights)


def convert_and_prepare(
    model: ir.Model, prepared: Prepared, recipe: Recipe, target: Target, *, ranges: bool, options: Mapping[str, Any]
) -> tuple[Converted | None, Prepared]:
    """Write what came quantized in the recipe's format, and prepare the result, which must not change any codes.

    Args:
        model, recipe, target, ranges: as for `convert`. prepared: the model, prepared. options: of preparing.
    """
    unfit: dict[str, str] = {}
    while True:
        found = convert(model, prepared.model, recipe, target, ranges=ranges, unfit=unfit)
        if found is None or found.model is None:
            return found, prepared
        again = prepare(found.model, **options)
        weights, lost = settled(found.weights, again.model)
        if not lost:
            return replace(found, weights=weights), again
        unfit |= dict.fromkeys(lost, "preparing the model changes its weight")


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
        return "it is on codes, and equalizing moves scales into weights; take `equalize` out"
    if recipe.search:
        return "it is on codes, and a search looks for others; take `search` out"
    return None if ranges else f"give calibration data to write it in format {recipe.format}"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Reading:
    """A copy of a model with quantized nodes read as float ones.

    Attributes:
        model: the copy. expanded: operators of other forms that were written as float ones. imported: what was lifted.
        missing: the fault of a runtime that lacks DequantizeLinear of the model's opset, None if it has it.
    """

    model: ir.Model
    expanded: Expanded
    imported: Imported
    missing: Fault | None

    @property
    def unpacked(self) -> dict[str, str]:
        """Path name and operator of float nodes behind a DequantizeLinear that stays."""
        return {name: op for name, op in self.expanded.nodes.items() if name not in self.imported.groups}


def _read(base: ir.Model, recipe: Recipe, target: Target, left: dict[str, str]) -> _Reading:
    """Read the nodes that are to be in the recipe's format; those that cannot be read are added to `left`, with why."""
    model = base.clone()
    missing = without_linear(target.faults, model.opset_imports.get("", 1))
    wanted = _wanted(recipe, target, left)
    expanded = _in_float(model, recipe, wanted, _wanted(recipe, target, {}), contrib_linear=missing is not None)
    left |= expanded.left
    imported = lift(
        model,
        lambda name, node: _has_kernel(recipe, target, op_key(node)) and wanted(name, op_key(node), is_weighted(node)),
        weights_only=recipe.format is Format.WEIGHT_ONLY,
    )
    left |= imported.left
    drop_unread(model)
    return _Reading(model=model, expanded=expanded, imported=imported, missing=missing)


def _has_kernel(recipe: Recipe, target: Target, op: str) -> bool:
    """Return whether an operator is to be lifted: of weights alone, those that are unpacked in either form are not."""
    weights_only = recipe.format is Format.WEIGHT_ONLY
    return not weights_only or any(row.contrib for row in target.rows_for(op, recipe.format))


def _refused(reading: _Reading, recipe: Recipe, target: Target) -> dict[str, str]:
    """Return why nodes that were read as float ones cannot stay that although they were not lifted, by path name."""
    if recipe.portable:
        missing = reading.missing
        return {} if missing is None else dict.fromkeys(reading.unpacked, f"{missing}; {missing.advice}")
    stuck = (name for name, op in reading.unpacked.items() if _has_kernel(recipe, target, op))
    return dict.fromkeys(stuck, CALIBRATED)


def _rewritten(model: ir.Model, prepared: ir.Model, recipe: Recipe, target: Target) -> Converted | None:
    """Write what has another form, but for products to be calibrated."""
    base = _base(model, prepared, recipe, target)
    if base is None:
        return None
    left: dict[str, str] = {}
    reading = _read(base, recipe, target, left)
    examined = examine_imported(reading.model, reading.imported, recipe, target)
    in_form = examined.in_form - reading.expanded.nodes.keys()
    refused = {name: why for name, why in _refused(reading, recipe, target).items() if name not in left}
    if _is_worthwhile(reading, recipe.format):
        refused |= examined.refused
    if refused:  # these are not read at all
        left |= refused
        reading = _read(base, recipe, target, left)
        examined = examine_imported(reading.model, reading.imported, recipe, target)
    told = {name: why for name, why in left.items() if name not in in_form}
    if not _is_worthwhile(reading, recipe.format):
        return Converted(model=None, nodes={}, left=told, message=_stay(told, recipe)) if told else None
    if examined.refused:
        name, why = next(iter(examined.refused.items()))
        raise PlanError(f"'{name}': {why}")
    plan = make_imported_plan(reading.model, examined.entries, reading.imported, recipe, target)
    written, _ = rewrite(
        reading.model,
        plan,
        chosen=ImportedCodes(plan, reading.imported.constants),
        declared=declared_values(model),
    )
    unpacked, settled = reading.unpacked, reading.expanded.settled
    count = len(reading.imported.groups) + len(unpacked)
    messages = [f"{count} nodes came quantized and are written in format {recipe.format} with {_THEIRS}"] * (count > 0)
    messages = [f"{message}, except: {'; '.join(plan.warnings)}" if plan.warnings else message for message in messages]
    if settled:
        level = f"accuracy level {recipe.accuracy_level}"
        messages.append(f"{len(settled)} MatMulNBits nodes came with another than {level}, and get that")
    decisions = {entry.node: entry.reason.text for entry in plan.decisions if entry.action is Action.QUANTIZE}
    around = notes_on([Detour.CONTRIB_LINEAR], target.faults) if reading.missing is not None else ()
    decisions |= {
        name: "; ".join((f"came quantized at run time; {_UNPACKS} {op} runs in float", *around))
        for name, op in unpacked.items()
    }
    decisions |= dict.fromkeys(settled, f"works on codes already, now at accuracy level {recipe.accuracy_level}")
    return Converted(
        model=written,
        nodes=decisions,
        left=told,
        message="; ".join([*messages, *([_stay(told, recipe)] if told else [])]),
    )


def with_imported(
    plan: Plan, written: Mapping[str, str], left: Mapping[str, str], present: Collection[str] = ()
) -> Plan:
    """Return the plan of a model that went through `convert`, which says what became of what came quantized.

    Args:
        plan: of the model as it is now. written, left: nodes written anew, and those that have no such form.
        present: names of the faults that plans go around.
    """

    def renamed(decision: Decision) -> Decision:
        if decision.action is Action.QUANTIZE:
            notes = notes_on(decision.detours, present) if decision.reason.code in (IMPORTED, ALREADY) else ()
            text = "; ".join((decision.reason.text, *notes))
            return replace(decision, reason=replace(decision.reason, text=text)) if notes else decision
        if decision.node in written:
            return replace(decision, reason=Reason(code=IMPORTED, text=written[decision.node]))
        if decision.node in left:
            return replace(decision, reason=Reason(code=ALREADY, text=f"stays as it came: {left[decision.node]}"))
        return decision

    return replace(plan, decisions=tuple(map(renamed, plan.decisions)))


def with_rest_in_float(model: ir.Model, recipe: Recipe, target: Target) -> Recipe:
    """Return the recipe with a rule that keeps what came in float and needs ranges: for models that come without data.

    Args:
        model: converted and prepared. recipe: to add to. target: what will run the model.
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
_THEIRS = "the scales, zero points and codes that they came with"


def _base(model: ir.Model, prepared: ir.Model, recipe: Recipe, target: Target) -> ir.Model | None:
    """Return the prepared model, of an opset that has the new form; None where nothing in it can be of another.

    Groups between Q and DQ whose weights saturate in the target's kernels are written again in the form they have.
    """
    opset = prepared.opset_imports.get("", 1)
    match recipe.format:
        case Format.QDQ:
            other = holds_integer_operators(prepared) or any(saturating(prepared, target))
            return prepared if other and opset >= _PER_CHANNEL else None
        case Format.QOPERATOR:
            return prepared if holds_dequantized(prepared) else None
        case Format.WEIGHT_ONLY if recipe.portable:
            bits, lookups = holds_block_products(prepared), holds_lookups(prepared)
            if not bits and not lookups and not holds_dynamic(prepared):
                return None
            needed = _TWO_BITS if 2 in bits else _BLOCKS if bits or lookups else _PER_CHANNEL
            base = prepared if needed <= opset else prepare(model, opset=needed).model
            return base if base.opset_imports.get("", 1) >= needed else None
        case Format.WEIGHT_ONLY:
            settles = recipe.accuracy_level is not None and bool(holds_block_products(prepared))
            return prepared if settles or holds_dequantized(prepared) or holds_dynamic(prepared) else None
    return None


def _in_float(model: ir.Model, recipe: Recipe, wanted: Wanted, asked: Wanted, *, contrib_linear: bool) -> Expanded:
    """Write quantized parts as float operators of what is dequantized, in place; tell which, and why not others.

    Args:
        model: to edit. recipe: names the format. wanted: what is to be written anew. asked: the same, by rules alone.
        contrib_linear: whether QuantizeLinear and DequantizeLinear are those of com.microsoft.
    """
    if recipe.format is Format.QDQ:
        expand(model, contrib_linear=contrib_linear)
        return Expanded()
    if recipe.format is not Format.WEIGHT_ONLY:
        return Expanded()
    per_channel = model.opset_imports.get("", 1) >= _PER_CHANNEL
    found = expand_dynamic(model, wanted, contrib_linear=contrib_linear) if per_channel else Expanded()
    if recipe.portable:
        found.left |= expand_blocks(model, asked)
        found.left |= expand_lookups(model, wanted)
    else:
        join_lookups(model, wanted)
        if recipe.accuracy_level is not None:
            found.settled = set_accuracy(model, recipe.accuracy_level, wanted)
    return found


def _stay(left: Mapping[str, str], recipe: Recipe) -> str:
    some = "; ".join(f"'{name}': {why}" for name, why in list(left.items())[:3])
    return f"{len(left)} nodes stay as they came, not in the form of format {recipe.format} ({some})"


_PER_CHANNEL, _BLOCKS, _TWO_BITS = 13, 21, 25  # opsets from which DequantizeLinear takes such


def _is_worthwhile(reading: _Reading, fmt: Format) -> bool:
    """Return whether something was read that is in another format.

    In format qoperator float operators stand between DQ and Q where their integer kernels are slower: a model without
    weights on codes in front of float operators is in that format already.
    """
    groups = reading.imported.groups
    if reading.unpacked or reading.expanded.settled:
        return True
    if fmt is not Format.QOPERATOR:
        return bool(groups)
    return any(
        name in groups and facts.get(op_key(node)).weight in groups[name].constants
        for name, node in nodes(reading.model)
    )


def _wanted(recipe: Recipe, target: Target, left: Mapping[str, str], *, guarded: bool = False) -> Wanted:
    """Return what tells whether a node is to be in the recipe's format; `guarded`: also if a guard found against it."""

    def wanted(name: str, op: str, weighted: bool = True) -> bool:
        if name in left:
            return False
        request = request_for(recipe, target, op, name, weighted=weighted)
        kept = request.keep is not None and not (guarded and request.keep[0] != "float")
        return not kept and request.format is recipe.format

    return wanted
