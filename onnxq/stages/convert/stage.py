"""A model that is quantized in another format than the one asked for is written in that one, with what it came with.

    QDQ <-> QOperator                              calibrated groups; a float weight behind a pair counts, too
    DequantizeLinear of blocks <-> MatMulNBits     products with weights on codes; by `portable`

No number is computed anew: scales, zero points and codes stay what they are. What has no form in the new format stays
in the old one, and so does what the recipe gives another format or keeps.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnxq.graph.walk import nodes
from onnxq.ops import facts, op_key
from onnxq.passes.emit.constants import Chosen
from onnxq.passes.emit.drop_inferred import declared_values
from onnxq.stages.convert.blocks import expand_blocks, holds_block_products
from onnxq.stages.convert.decide import imported_plan
from onnxq.stages.convert.expand import expand, holds_integer_operators
from onnxq.stages.convert.lift import Constant, Imported, holds_dequantized, lift
from onnxq.stages.convert.writer import drop_unread
from onnxq.stages.draft import with_rules
from onnxq.stages.plan.already import IMPORTED
from onnxq.stages.plan.candidates import Candidate, examine, is_weighted
from onnxq.stages.plan.rules import wish_for
from onnxq.stages.prepare import prepare
from onnxq.stages.rewrite import rewrite
from onnxq.targets import Target
from onnxq.types.format import Format
from onnxq.types.plan import Action, Decision, Plan, Reason, Role
from onnxq.types.recipe import Match, Recipe, Rule

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Converted:
    """A model in the format asked for: the plan that it came with, the model, and a sentence about it."""

    plan: Plan
    model: ir.Model
    message: str

    @property
    def nodes(self) -> Mapping[str, str]:
        """Path name of each node that was written anew -> why."""
        decisions = (entry for entry in self.plan.decisions if entry.action is Action.QUANTIZE)
        return {entry.node: entry.reason.text for entry in decisions}


def convert(model: ir.Model, prepared: ir.Model, recipe: Recipe, target: Target) -> Converted | None:
    """Write what came quantized in the recipe's format; None where there is nothing to write anew.

    Args:
        model: as loaded. prepared: the same, prepared. recipe: of a settled format. target: what will run it.
    """
    started = _started(model, prepared, recipe)
    if started is None:
        return None
    refused: dict[str, str] = {}
    wanted = _wanted(recipe, target, refused)
    while True:
        lifted = started.clone()
        found = lift(lifted, wanted, weights_only=recipe.format is Format.WEIGHT_ONLY)
        drop_unread(lifted)
        if not _worthwhile(lifted, found, recipe.format):
            return None
        plan, reasons = imported_plan(lifted, found, recipe.format, target, portable=recipe.portable)
        if not reasons:
            break
        refused |= reasons
    written, _ = rewrite(lifted, plan, chosen=_Codes(plan, found), declared=declared_values(model))
    some = "; ".join(f"'{name}': {why}" for name, why in list(refused.items())[:3])
    kept = f"; {len(refused)} have no such form and stay as they came ({some})" if refused else ""
    message = f"{len(found.groups)} nodes came quantized and are written in format {recipe.format} with {_THEIRS}{kept}"
    return Converted(plan=plan, model=written, message=message)


def with_imported(plan: Plan, written: Mapping[str, str]) -> Plan:
    """Return the plan of a converted model, which says of the nodes that were written anew where they come from."""

    def renamed(decision: Decision) -> Decision:
        if decision.action is Action.QUANTIZE or decision.node not in written:
            return decision
        return replace(decision, reason=Reason(code=IMPORTED, text=written[decision.node]))

    return replace(plan, decisions=tuple(map(renamed, plan.decisions))) if written else plan


def with_rest_in_float(model: ir.Model, recipe: Recipe, target: Target) -> Recipe:
    """Return the recipe with a rule that keeps what came in float and needs ranges: for models that come without data.

    Args:
        model: converted and prepared. recipe: to add to. target: what will run the model.
    """
    examined = examine(model, recipe, target)
    names = [each.name for each in examined if isinstance(each, Candidate) and each.wish.format.static]
    if not names:
        return recipe
    match = Match(name=tuple(glob.escape(name) for name in names))
    rule = Rule(
        match=match, keep="float", because="came in float; give calibration data to quantize it, too", optional=True
    )
    return with_rules(recipe, [rule])


_THEIRS = "the scales, zero points and codes that they came with"


def _started(model: ir.Model, prepared: ir.Model, recipe: Recipe) -> ir.Model | None:
    """Return the prepared model with all quantized parts as Q/DQ, None where nothing in it can be of another format."""
    match recipe.format:
        case Format.QDQ:
            if not holds_integer_operators(prepared) or prepared.opset_imports.get("", 1) < _PER_CHANNEL:
                return None
            started = prepared.clone()
            expand(started)
        case Format.QOPERATOR if holds_dequantized(prepared):
            started = prepared.clone()
        case Format.WEIGHT_ONLY if recipe.portable:
            bits = holds_block_products(prepared)
            if not bits:
                return None
            opset = _TWO_BITS if 2 in bits else _BLOCKS
            started = prepare(model, opset=opset).model.clone()
            if started.opset_imports.get("", 1) < opset:
                return None
            expand_blocks(started)
        case Format.WEIGHT_ONLY if holds_dequantized(prepared):
            started = prepared.clone()
        case _:
            return None
    return started


_PER_CHANNEL, _BLOCKS, _TWO_BITS = 13, 21, 25  # opsets from which DequantizeLinear takes such


def _worthwhile(model: ir.Model, found: Imported, form: Format) -> bool:
    """Tell whether something was found that is in another format.

    In format qoperator float operators stand between DQ and Q where their integer kernels are slower: a model without
    weights on codes in front of float operators is in that format already.
    """
    if form is not Format.QOPERATOR:
        return bool(found.groups)
    return any(
        name in found.groups and facts.get(op_key(node)).weight in found.groups[name].constants
        for name, node in nodes(model)
    )


def _wanted(recipe: Recipe, target: Target, refused: Mapping[str, str]) -> Callable[[str, ir.Node], bool]:
    def wanted(name: str, node: ir.Node) -> bool:
        if name in refused:
            return False
        wish = wish_for(recipe, target, op_key(node), name, weighted=is_weighted(node))
        return wish.keep is None and wish.format is recipe.format

    return wanted


class _Codes(Mapping[str, Chosen]):
    """The codes that a model came with, by plan key; unpacked when they are asked for."""

    def __init__(self, plan: Plan, found: Imported) -> None:
        roles = (Role.WEIGHT, Role.BIAS)
        self._held: dict[str, Constant] = {
            key: found.constants[tensor.tensor]
            for key, tensor in plan.tensors.items()
            if tensor.role in roles and tensor.tensor in found.constants
        }

    def __getitem__(self, key: str) -> Chosen:
        held = self._held[key]
        return held.codes(), held.params

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)
