"""Imported nodes read as float ones: from whatever form they are in, to be written in another format."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxq.graph.walk import nodes
from onnxq.graph.writer import drop_unread
from onnxq.ops import facts, op_key
from onnxq.passes.read.dynamic import Expanded, expand_dynamic, holds_dynamic
from onnxq.passes.read.lookups import Wanted, expand_lookups, holds_lookups, join_lookups
from onnxq.passes.read.matmul_nbits import expand_blocks, holds_block_products, set_accuracy
from onnxq.passes.read.qdq import Imported, holds_dequantized, holds_rounded_constants, lift
from onnxq.passes.read.qoperator import expand, holds_integer_operators
from onnxq.passes.read.saturation import saturating
from onnxq.stages.plan.candidates import is_weighted
from onnxq.stages.plan.rules import request_for
from onnxq.stages.prepare import prepare
from onnxq.targets import Target
from onnxq.targets.faults import without_linear
from onnxq.types.format import Format
from onnxq.types.recipe import Recipe

if TYPE_CHECKING:
    import onnx_ir as ir

CALIBRATED = "what it reads or writes is calibrated"
"""Why a product that quantizes at run time is not read as a float one."""

_PER_CHANNEL, _BLOCKS, _TWO_BITS = 13, 21, 25  # opsets from which DequantizeLinear takes such


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reading:
    """A copy of a model with the nodes as float ones that are to be in another format.

    Attributes:
        model: the copy.
        imported: codes and parameters of what was lifted from between DequantizeLinear and QuantizeLinear.
        expanded: operators of other forms that were written as float ones.
        unread: path names of nodes that could not be read, and why.
        stuck: path names of nodes that cannot stay float ones although they were not lifted, and why.
        lacks_linear: whether the runtime lacks DequantizeLinear of the model's opset.
        is_worthwhile: whether something was read that is in another format.
    """

    model: ir.Model
    imported: Imported
    expanded: Expanded
    unread: Mapping[str, str]
    stuck: Mapping[str, str]
    lacks_linear: bool
    is_worthwhile: bool

    @property
    def unpacked(self) -> dict[str, str]:
        """Path name and operator of float nodes behind a DequantizeLinear that stays."""
        return _unpacked(self.expanded, self.imported)


def read(base: ir.Model, recipe: Recipe, target: Target, without: Collection[str] = ()) -> Reading:
    """Read the nodes of a model that are to be in the recipe's format.

    Args:
        base: the model; stays unchanged.
        recipe: names the format, and by rules the nodes.
        target: what will run the model.
        without: path names of nodes that are not to be read.
    """
    model, weights_only = base.clone(), recipe.format is Format.WEIGHT_ONLY
    missing = without_linear(target.faults, model.opset_imports.get("", 1))
    wanted = wanted_by(recipe, target, without)
    expanded = _expanded(model, recipe, wanted, wanted_by(recipe, target), contrib_linear=missing is not None)

    def has_kernel(op: str) -> bool:  # of weights alone, those that are unpacked in either form have none
        return not weights_only or any(row.contrib for row in target.rows_for(op, recipe.format))

    imported = lift(
        model,
        lambda name, node: has_kernel(op_key(node)) and wanted(name, op_key(node), is_weighted(node)),
        weights_only=weights_only,
    )
    drop_unread(model)
    unread, unpacked = {**expanded.left, **imported.left}, _unpacked(expanded, imported)
    stuck = {}
    if not recipe.portable:
        stuck = dict.fromkeys((name for name, op in unpacked.items() if has_kernel(op)), CALIBRATED)
    elif missing is not None:
        stuck = dict.fromkeys(unpacked, f"{missing}; {missing.advice}")
    return Reading(
        model=model,
        imported=imported,
        expanded=expanded,
        unread=unread,
        stuck={name: why for name, why in stuck.items() if name not in unread},
        lacks_linear=missing is not None,
        is_worthwhile=bool(unpacked or expanded.settled) or _holds_others(model, imported, recipe.format),
    )


def readable(model: ir.Model, prepared: ir.Model, recipe: Recipe, target: Target) -> ir.Model | None:
    """Return the prepared model, of an opset that has the new form; None where nothing in it can be of another.

    Groups between Q and DQ are written again in the form they have where their weights saturate in the target's
    kernels, or are float ones that are quantized whenever the model runs.
    """
    opset = prepared.opset_imports.get("", 1)
    match recipe.format:
        case Format.QDQ:
            rounds = holds_rounded_constants(prepared)
            other = rounds or holds_integer_operators(prepared) or any(saturating(prepared, target))
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


def wanted_by(recipe: Recipe, target: Target, without: Collection[str] = (), *, guarded: bool = False) -> Wanted:
    """Return what decides whether a node is to be in the recipe's format.

    Args:
        recipe: with rules.
        target: what will run the model.
        without: path names of nodes that are not to be.
        guarded: whether nodes that a guard put back in float are to be.
    """

    def wanted(name: str, op: str, weighted: bool = True) -> bool:
        if name in without:
            return False
        request = request_for(recipe, target, op, name, weighted=weighted)
        kept = request.keep is not None and not (guarded and request.keep[0] != "float")
        return not kept and request.format is recipe.format

    return wanted


def _expanded(model: ir.Model, recipe: Recipe, wanted: Wanted, by_rules: Wanted, *, contrib_linear: bool) -> Expanded:
    """Write quantized operators as float ones of what is dequantized, in place; return which, and why not others.

    Args:
        model: to edit.
        recipe: names the format.
        wanted: which are to be written.
        by_rules: the same, by rules alone.
        contrib_linear: whether QuantizeLinear and DequantizeLinear are those of com.microsoft.
    """
    if recipe.format is Format.QDQ:
        expand(model, contrib_linear=contrib_linear)
        return Expanded()
    if recipe.format is not Format.WEIGHT_ONLY:
        return Expanded()
    per_channel = model.opset_imports.get("", 1) >= _PER_CHANNEL
    expanded = expand_dynamic(model, wanted, contrib_linear=contrib_linear) if per_channel else Expanded()
    if recipe.portable:
        expanded.left |= expand_blocks(model, by_rules)
        expanded.left |= expand_lookups(model, wanted)
    else:
        join_lookups(model, wanted)
        if recipe.accuracy_level is not None:
            expanded.settled = set_accuracy(model, recipe.accuracy_level, wanted)
    return expanded


def _unpacked(expanded: Expanded, imported: Imported) -> dict[str, str]:
    return {name: op for name, op in expanded.nodes.items() if name not in imported.groups}


def _holds_others(model: ir.Model, imported: Imported, fmt: Format) -> bool:
    """Return whether something was lifted that is in another format.

    In format qoperator float operators stand between DQ and Q where their integer kernels are slower: a model without
    quantized weights in front of float operators is in that format already.
    """
    groups = imported.groups
    if fmt is not Format.QOPERATOR:
        return bool(groups)
    return any(
        name in groups and facts.get(op_key(node)).weight in groups[name].constants for name, node in nodes(model)
    )
