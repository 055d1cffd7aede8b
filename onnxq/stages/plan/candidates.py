"""Which nodes could run on codes at all, by facts alone: operator, types, constants, recipe, target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnxq.graph.constants import constant_tensor, moved_tensor
from onnxq.graph.hoist import why_hidden
from onnxq.graph.marks import equalizing
from onnxq.graph.walk import nodes
from onnxq.ops import OpFact, facts, op_key
from onnxq.stages.plan.already_quantized import ALREADY, is_between, is_quantized
from onnxq.stages.plan.around import FAULT, Around
from onnxq.stages.plan.kernel_choice import NO_SCHEME, choose, fit
from onnxq.stages.plan.rules import Wish, wish_for
from onnxq.stages.plan.storage import no_gain
from onnxq.targets import Row, Target
from onnxq.targets.faults import WriteRequest
from onnxq.types.float_type import FloatType
from onnxq.types.format import Format
from onnxq.types.plan import Reason
from onnxq.types.recipe import Recipe
from onnxq.types.scheme import PerChannel, Scheme

if TYPE_CHECKING:
    import onnx_ir as ir

_CODES = 10  # the opset from which on there are QuantizeLinear and DequantizeLinear
_SHORT_FLOATS = 13  # the opset from which on operators take bfloat16, and the targets' lists of kernels hold


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Candidate:
    """A node that could run on codes.

    Attributes:
        name: unique name. node: the node. op: `domain::op_type`. fact, row: what is known of it. wish: what is wanted.
        activations: input slots with values computed at run time. constants: activation slots with constants.
        weights: slots of constant weights. bias: slot of a constant bias to quantize, None if there is none.
        hidden: whether it lies where values cannot be observed. note: what is to be said of it besides, in words.
        written: how it is written, around the target's faults.
        quantized_output: of an imported node, whether its output is quantized; None where the plan decides that.
    """

    name: str
    node: ir.Node
    op: str
    fact: OpFact
    row: Row
    wish: Wish
    activations: tuple[int, ...]
    constants: tuple[int, ...] = ()
    weights: tuple[int, ...] = ()
    bias: int | None = None
    hidden: bool = False
    note: str = ""
    written: WriteRequest
    quantized_output: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Kept:
    """A node that stays in float, and why; `clamp` marks one that quantizing its output could absorb."""

    name: str
    node: ir.Node
    op: str
    reason: Reason
    rule: int | None = None
    wish: Wish | None = None
    clamp: bool = False


def examine(model: ir.Model, recipe: Recipe, target: Target) -> Iterator[Candidate | Kept]:
    """Yield every node of the model, subgraphs included, as candidate or kept, in graph order."""
    hidden = why_hidden(model)
    for name, node in nodes(model):
        entry = _examine(name, node, model, recipe, target)
        why = hidden.get(node.graph)  # type: ignore[arg-type]
        if why is not None and isinstance(entry, Candidate) and entry.wish.format.static:
            reason = Reason(code="hidden", text=f"{why}, and format {entry.wish.format} needs ranges")
            yield Kept(name=name, node=node, op=entry.op, reason=reason, rule=entry.wish.rule, wish=entry.wish)
        elif why is not None:
            yield replace(entry, hidden=True) if isinstance(entry, Candidate) else replace(entry, clamp=False)
        else:
            yield entry


def needed_opset(model: ir.Model, recipe: Recipe, target: Target) -> int:
    """Return the lowest ONNX opset that has all operators and types that a plan would want; 1 where any will do."""
    found = 1 if recipe.float_type is FloatType.FLOAT32 else _SHORT_FLOATS
    for name, node in nodes(model):
        entry = _examine(name, node, model, recipe, target, limited=False)
        if isinstance(entry, Candidate) and entry.row.opset is not None:
            found = max(found, entry.row.opset(entry.wish.weights))
    return found


def _examine(
    name: str, node: ir.Node, model: ir.Model, recipe: Recipe, target: Target, *, limited: bool = True
) -> Candidate | Kept:
    """Examine one node; `limited` to the operators and types of the model's opset."""
    op = op_key(node)
    wish = wish_for(recipe, target, op, name, weighted=is_weighted(node))
    if wish.keep is not None:
        code, text = _asked(wish.keep, wish.rule)
        reason = Reason(code=code, text=text)
        return Kept(name=name, node=node, op=op, reason=reason, rule=wish.rule, wish=wish)
    method = equalizing(node)
    if method is not None:
        reason = Reason(code="equalizes", text=f"scales by {method} what is quantized behind it, not before")
        return Kept(name=name, node=node, op=op, reason=reason, rule=wish.rule, wish=wish)
    around = Around(node, target.faults, model.opset_imports.get("", 1))
    opset = model.opset_imports.get("", 1) if limited else None
    fact = facts.get(op) if op in facts else None
    between = fact is not None and (wish.format.static or fact.weight is not None)
    why = is_quantized(node) or (is_between(node, weight=_only(fact, wish)) if between else None)
    if why is not None:
        reason = Reason(code=ALREADY, text=why)
        return Kept(name=name, node=node, op=op, reason=reason, rule=wish.rule, wish=wish)
    rows = target.rows_for(op, wish.format, portable=wish.portable)
    table = None
    if fact is not None and ((wish.format.static and _looks_up(node, fact)) or (fact.more_weights and not rows)):
        other = _elsewhere(name, node, fact, recipe=recipe, target=target, asked=wish, opset=opset, around=around)
        if isinstance(other, Candidate):
            return other
        table = None if other is None else other.reason.text
    if wish.format.static and "" in model.opset_imports and opset is not None and opset < _CODES:
        reason = Reason(code=NO_SCHEME, text=f"QuantizeLinear needs opset {_CODES}, the model has {opset}")
        return Kept(name=name, node=node, op=op, reason=reason, rule=wish.rule, wish=wish)
    if wish.format.static:
        return _examine_static(name, node, fact, rows=rows, wish=wish, target=target, table=table, around=around)
    return _examine_weighted(name, node, fact, rows=rows, wish=wish, target=target, opset=opset, around=around)


def _examine_static(
    name: str,
    node: ir.Node,
    fact: OpFact | None,
    *,
    rows: tuple[Row, ...],
    wish: Wish,
    target: Target,
    table: str | None,
    around: Around,
) -> Candidate | Kept:
    """Examine a node for a format whose activations have parameters from calibration.

    `table`: why the table of constants that it picks from cannot be quantized, None if that was not tried.
    """
    op = op_key(node)

    def kept(code: str, text: str, *, clamp: bool = False) -> Kept:
        return Kept(
            name=name, node=node, op=op, reason=Reason(code=code, text=text), rule=wish.rule, wish=wish, clamp=clamp
        )

    if fact is not None and fact.clamp is not None and not rows and _is_float(node.inputs[0]):
        return kept("lone-clamp", f"{op} alone has no 8-bit kernel; only behind one can it be absorbed", clamp=True)
    if fact is None or not rows:
        return kept("no-kernel", f"{op} has no integer kernel on target {target.name}{_instead(op, target)}")
    slots = fact.activation_slots(node)
    if not slots:
        return kept("no-kernel", f"{op} without inputs has nothing to quantize")
    for value in (*(node.inputs[slot] for slot in slots), *(node.outputs[slot] for slot in fact.output_slots(node))):
        if not _is_float(value):
            found = "unknown type" if value is None or value.dtype is None else value.dtype.name.lower()
            where = "" if value is None else f" '{value.name}'"
            return kept("type", f"{found} tensor{where}: only float32 is quantized")
    weight = fact.weight if fact.weight is not None and _is_constant(node, fact.weight) else None
    running = tuple(slot for slot in slots if slot != weight and constant_tensor(node.inputs[slot]) is None)
    if all(moved_tensor(node.inputs[slot]) is not None for slot in running):
        return kept("constant", _about_constants(node, table))
    bias = fact.bias if fact.bias is not None and _is_filled(node, fact.bias) else None
    if all(row.float_bias for row in rows):
        bias = None
    problem = _problem(node, fact, running, weight, bias)
    if problem is not None:
        return kept(*problem)
    weights = () if weight is None else (weight,)
    fitting = fit(
        rows,
        node,
        wish,
        target.defaults_for(op)[wish.format].weights,
        weighted=weight is not None,
        refuses=lambda row, scheme: (
            _wrong_axis(node, fact, weight, scheme) or around.refuses(row, replace(wish, weights=scheme), weights)
        ),
    )
    if isinstance(fitting, Reason):
        return kept(FAULT if around.refused else fitting.code, f"{op} on target {target.name}: {fitting.text}")
    row, wish = fitting
    written, wish = around.written(row, wish, weights)
    in_float = frozenset() if row.float_inputs is None else row.float_inputs(node)
    return Candidate(
        name=name,
        node=node,
        op=op,
        fact=fact,
        row=row,
        wish=wish,
        activations=tuple(slot for slot in running if slot not in in_float),
        constants=tuple(slot for slot in slots if slot not in running and slot != weight),
        weights=weights,
        bias=bias,
        written=written,
    )


def _instead(op: str, target: Target) -> str:
    return f": {target.instead[op]}" if op in target.instead else ""


def _only(fact: OpFact | None, wish: Wish) -> int | None:
    """Return the one slot that may not be quantized already: formats for weights leave activations alone."""
    return None if fact is None or wish.format.static else fact.weight


def _asked(keep: tuple[str, str | None], rule: int | None) -> tuple[str, str]:
    """Return code and text of a node that a rule keeps in float."""
    code, because = keep
    text = f"rule {rule} of the recipe keeps it in float"
    return "rule" if code == "float" else code, text if because is None else because


def _elsewhere(
    name: str,
    node: ir.Node,
    fact: OpFact,
    *,
    recipe: Recipe,
    target: Target,
    asked: Wish,
    opset: int | None,
    around: Around,
) -> Candidate | Kept | None:
    """Return a node in another format where the one asked for has no kernel for it; None if no other has one either.

    Of a node that no other format can write, the reason is that of the first which has a kernel for its operator.
    """
    op, kept = op_key(node), None
    # Codes that are looked up cost nothing; a table unpacked before every look would.
    for fmt in (Format.DYNAMIC, Format.WEIGHT_ONLY)[: 1 if fact.rearranges else 2]:
        rows = target.rows_for(op, fmt, portable=asked.portable) if fmt in target.defaults else ()
        if not rows:
            continue
        wish = wish_for(recipe, target, op, name, weighted=is_weighted(node), instead=fmt)
        entry = _examine_weighted(name, node, fact, rows=rows, wish=wish, target=target, opset=opset, around=around)
        if isinstance(entry, Candidate):
            return entry
        kept = kept or entry
    return kept


def _looks_up(node: ir.Node, fact: OpFact) -> bool:
    """Tell whether a node picks rows from a constant table, as embeddings do."""
    return fact.rearranges and fact.weight is not None and _never_changes(node, fact.weight)


def _about_constants(node: ir.Node, table: str | None) -> str:
    if all(value is None or moved_tensor(value) is not None for value in node.inputs):
        return "computes from constants only"
    return (
        f"picks from constants, which stay in float: {table or 'only rows that a Gather picks are looked up on codes'}"
    )


def _problem(
    node: ir.Node, fact: OpFact, running: tuple[int, ...], weight: int | None, bias: int | None
) -> tuple[str, str] | None:
    """Return code and text if an input of a node is of a form that no integer kernel takes."""
    for value in (node.inputs[slot] for slot in running):
        if value is not None and value.is_graph_input() and value.is_initializer():
            return "default", f"its input '{value.name}' has a default that callers may override: its range is unknown"
    if fact.weight is None or fact.weight >= len(node.inputs):
        return None
    value = node.inputs[fact.weight]
    if weight is None and (fact.bias is not None or value is None):
        return "computed-weight", f"its weight '{'' if value is None else value.name}' is computed at run time"
    if bias is None or weight is None or fact.channel_axis is None or value is None or value.shape is None:
        return None
    source = node.inputs[bias]
    tensor, name = constant_tensor(source), "" if source is None else source.name
    if tensor is None:
        return "computed-bias", f"its bias '{name}' is computed at run time"
    channels = value.shape[fact.channel_axis(node, len(value.shape))]
    if tuple(tensor.shape) != (channels,):
        return "bias-shape", f"its bias '{name}' has shape {list(tensor.shape)}, integer kernels take [{channels}]"
    return None


def _wrong_axis(node: ir.Node, fact: OpFact, weight: int | None, weights: Scheme) -> str | None:
    """Return why an axis that the recipe names does not do for calibrated kernels, None if it does or none is named."""
    granularity = weights.granularity
    value = None if weight is None else node.inputs[weight]
    if not isinstance(granularity, PerChannel) or granularity.axis is None or value is None or value.shape is None:
        return None
    axis = None if fact.channel_axis is None else fact.channel_axis(node, len(value.shape))
    return None if granularity.axis == axis else f"scales along axis {granularity.axis}, kernels take them along {axis}"


def _examine_weighted(
    name: str,
    node: ir.Node,
    fact: OpFact | None,
    *,
    rows: tuple[Row, ...],
    wish: Wish,
    target: Target,
    opset: int | None,
    around: Around,
) -> Candidate | Kept:
    """Examine a node for a format that quantizes weights only, or activations at run time: nothing is observed."""
    op = op_key(node)

    def kept(code: str, text: str) -> Kept:
        return Kept(name=name, node=node, op=op, reason=Reason(code=code, text=text), rule=wish.rule, wish=wish)

    if fact is None or fact.weight is None or not rows:
        text = f"{op} has no kernel in format {wish.format} on target {target.name}{_instead(op, target)}"
        return kept("no-kernel", text)
    weights = tuple(slot for slot in (fact.weight, *fact.more_weights) if _never_changes(node, slot))
    if len(weights) != 1 + len(fact.more_weights):
        slot = next(slot for slot in (fact.weight, *fact.more_weights) if slot not in weights)
        value = node.inputs[slot] if slot < len(node.inputs) else None
        return kept("computed-weight", f"its weight '{'' if value is None else value.name}' is computed at run time")
    running = tuple(slot for slot in fact.activation_slots(node) if slot not in weights)
    computed = (node.outputs[slot] for slot in fact.output_slots(node))
    for value in (
        *(node.inputs[slot] for slot in (*weights, *running)),
        *(value for value in computed if value.name),  # recurrent operators may leave outputs out
    ):
        if not _is_float(value):
            found = "unknown type" if value is None or value.dtype is None else value.dtype.name.lower()
            where = "" if value is None else f" '{value.name}'"
            return kept("type", f"{found} tensor{where}: only float32 is quantized")
    if wish.splits and running and bool(node.attributes.get_int("transA", 0)):
        return kept(NO_SCHEME, f"{op} with transA = 1 has features along its first axis: none can be left out")
    if running and all(constant_tensor(node.inputs[slot]) is not None for slot in running):
        return kept("constant", "computes from constants only")
    if wish.format is Format.WEIGHT_ONLY and isinstance(
        choose(rows, node, wish, weighted=True, refuses=lambda row: None), Row
    ):
        grown = no_gain(node, fact, weights, wish.weights)
        if grown is not None:
            return kept("no-gain", grown)
    usual = target.defaults_for(op)[wish.format].weights
    fitting = fit(
        rows,
        node,
        wish,
        usual,
        weighted=True,
        refuses=lambda row, scheme: (
            _missing(row, scheme, opset) or around.refuses(row, replace(wish, weights=scheme), weights)
        ),
    )
    if isinstance(fitting, Reason):
        return kept(FAULT if around.refused else fitting.code, f"{op} on target {target.name}: {fitting.text}")
    row, wish = fitting
    written, wish = around.written(row, wish, weights)
    return Candidate(
        name=name,
        node=node,
        op=op,
        fact=fact,
        row=row,
        wish=wish,
        activations=running,
        weights=weights,
        written=written,
    )


def _missing(row: Row, weights: Scheme, opset: int | None) -> str | None:
    """Return why what a row writes does not exist in an opset (None: any), None if it does."""
    needed = 1 if row.opset is None else row.opset(weights)
    if opset is None or needed <= opset:
        return None
    return f"{weights} in operators of the standard needs opset {needed}, the model has {opset}"


def is_weighted(node: ir.Node) -> bool:
    """Tell whether a node has a constant weight."""
    fact = facts.get(op_key(node)) if op_key(node) in facts else None
    return fact is not None and fact.weight is not None and _never_changes(node, fact.weight)


def _is_filled(node: ir.Node, slot: int) -> bool:
    return slot < len(node.inputs) and node.inputs[slot] is not None


def _is_constant(node: ir.Node, slot: int) -> bool:
    return slot < len(node.inputs) and constant_tensor(node.inputs[slot]) is not None


def _never_changes(node: ir.Node, slot: int) -> bool:
    return slot < len(node.inputs) and moved_tensor(node.inputs[slot]) is not None


def _is_float(value: ir.Value | None) -> bool:
    import onnx_ir as ir

    return value is not None and value.dtype == ir.DataType.FLOAT
