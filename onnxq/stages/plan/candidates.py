"""Which nodes could run quantized at all, by facts alone: operator, types, constants, recipe, target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxq.graph.constants import constant_tensor, moved_tensor
from onnxq.graph.hoist import why_hidden
from onnxq.graph.node_marks import equalizing
from onnxq.graph.walk import nodes
from onnxq.ops import OpFact, facts, op_key
from onnxq.stages.plan.already_quantized import is_between, is_quantized
from onnxq.stages.plan.entries import Candidate, FloatNode
from onnxq.stages.plan.fault_detours import FAULT, Around
from onnxq.stages.plan.kernel_choice import NO_SCHEME, choose, fit
from onnxq.stages.plan.rules import NodeRequest, request_for
from onnxq.stages.plan.storage import no_gain
from onnxq.targets import Row, Target
from onnxq.types.float_type import FloatType
from onnxq.types.format import Format
from onnxq.types.plan import ALREADY, Reason
from onnxq.types.recipe import Recipe
from onnxq.types.scheme import PerChannel, Scheme

if TYPE_CHECKING:
    import onnx_ir as ir

_CODES = 10  # the opset from which on there are QuantizeLinear and DequantizeLinear
_SHORT_FLOATS = 13  # the opset from which on operators take bfloat16, and the targets' lists of kernels hold


def examine_nodes(model: ir.Model, recipe: Recipe, target: Target) -> Iterator[Candidate | FloatNode]:
    """Yield every node of the model, subgraphs included, as candidate or kept, in graph order."""
    hidden = why_hidden(model)
    for name, node in nodes(model):
        entry = _examine(name, node, model, recipe, target)
        why = hidden.get(node.graph)  # type: ignore[arg-type]
        if why is not None and isinstance(entry, Candidate) and entry.request.format.static:
            reason = Reason(code="hidden", text=f"{why}, and format {entry.request.format} needs ranges")
            yield FloatNode(
                name=name, node=node, op=entry.op, reason=reason, rule=entry.request.rule, request=entry.request
            )
        elif why is not None:
            yield replace(entry, hidden=True) if isinstance(entry, Candidate) else replace(entry, clamp=False)
        else:
            yield entry


def needed_opset(model: ir.Model, recipe: Recipe, target: Target) -> int:
    """Return the lowest ONNX opset that has all operators and types that a plan would want; 1 where any will do."""
    opset = 1 if recipe.float_type is FloatType.FLOAT32 else _SHORT_FLOATS
    for name, node in nodes(model):
        entry = _examine(name, node, model, recipe, target, limited=False)
        if isinstance(entry, Candidate) and entry.row.opset is not None:
            opset = max(opset, entry.row.opset(entry.request.weights))
    return opset


def _examine(
    name: str, node: ir.Node, model: ir.Model, recipe: Recipe, target: Target, *, limited: bool = True
) -> Candidate | FloatNode:
    """Examine one node; `limited` to the operators and types of the model's opset."""
    op = op_key(node)
    request = request_for(recipe, target, op, name, weighted=is_weighted(node))
    if request.keep is not None:
        code, text = _asked(request.keep, request.rule)
        reason = Reason(code=code, text=text)
        return FloatNode(name=name, node=node, op=op, reason=reason, rule=request.rule, request=request)
    method = equalizing(node)
    if method is not None:
        reason = Reason(code="equalizes", text=f"scales by {method} what is quantized behind it, not before")
        return FloatNode(name=name, node=node, op=op, reason=reason, rule=request.rule, request=request)
    around = Around(node, target.faults, model.opset_imports.get("", 1))
    opset = model.opset_imports.get("", 1) if limited else None
    fact = facts.get(op) if op in facts else None
    between = fact is not None and (request.format.static or fact.weight is not None)
    why = is_quantized(node) or (is_between(node, weight=_only(fact, request)) if between else None)
    if why is not None:
        reason = Reason(code=ALREADY, text=why)
        return FloatNode(name=name, node=node, op=op, reason=reason, rule=request.rule, request=request)
    rows = target.rows_for(op, request.format, portable=request.portable)
    table = None
    if fact is not None and ((request.format.static and _looks_up(node, fact)) or (fact.more_weights and not rows)):
        other = _elsewhere(name, node, fact, recipe=recipe, target=target, request=request, opset=opset, around=around)
        if isinstance(other, Candidate):
            return other
        table = None if other is None else other.reason.text
    if request.format.static and "" in model.opset_imports and opset is not None and opset < _CODES:
        reason = Reason(code=NO_SCHEME, text=f"QuantizeLinear needs opset {_CODES}, the model has {opset}")
        return FloatNode(name=name, node=node, op=op, reason=reason, rule=request.rule, request=request)
    if request.format.static:
        return _examine_static(name, node, fact, rows=rows, request=request, target=target, table=table, around=around)
    return _examine_weighted(name, node, fact, rows=rows, request=request, target=target, opset=opset, around=around)


def _examine_static(
    name: str,
    node: ir.Node,
    fact: OpFact | None,
    *,
    rows: tuple[Row, ...],
    request: NodeRequest,
    target: Target,
    table: str | None,
    around: Around,
) -> Candidate | FloatNode:
    """Examine a node for a format whose activations have parameters from calibration.

    `table`: why the table of constants that it picks from cannot be quantized, None if that was not tried.
    """
    op = op_key(node)

    def kept(code: str, text: str, *, clamp: bool = False) -> FloatNode:
        return FloatNode(
            name=name,
            node=node,
            op=op,
            reason=Reason(code=code, text=text),
            rule=request.rule,
            request=request,
            clamp=clamp,
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
            dtype = "unknown type" if value is None or value.dtype is None else value.dtype.name.lower()
            where = "" if value is None else f" '{value.name}'"
            return kept("type", f"{dtype} tensor{where}: only float32 is quantized")
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
        request,
        target.defaults_for(op)[request.format].weights,
        weighted=weight is not None,
        refuses=lambda row, scheme: (
            _wrong_axis(node, fact, weight, scheme) or around.refuses(row, replace(request, weights=scheme), weights)
        ),
    )
    if isinstance(fitting, Reason):
        return kept(FAULT if around.refused else fitting.code, f"{op} on target {target.name}: {fitting.text}")
    row, request = fitting
    written, request = around.written(row, request, weights)
    in_float = frozenset() if row.float_inputs is None else row.float_inputs(node)
    return Candidate(
        name=name,
        node=node,
        op=op,
        fact=fact,
        row=row,
        request=request,
        activations=tuple(slot for slot in running if slot not in in_float),
        constants=tuple(slot for slot in slots if slot not in running and slot != weight),
        weights=weights,
        bias=bias,
        written=written,
    )


def _instead(op: str, target: Target) -> str:
    return f": {target.instead[op]}" if op in target.instead else ""


def _only(fact: OpFact | None, request: NodeRequest) -> int | None:
    """Return the one slot that may not be quantized already: formats for weights leave activations alone."""
    return None if fact is None or request.format.static else fact.weight


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
    request: NodeRequest,
    opset: int | None,
    around: Around,
) -> Candidate | FloatNode | None:
    """Return a node in another format where the requested one has no kernel for it; None if no other has one either.

    Of a node that no other format can write, the reason is that of the first which has a kernel for its operator.
    """
    op, kept = op_key(node), None
    # Codes that are looked up cost nothing; a table unpacked before every look would.
    for fmt in (Format.DYNAMIC, Format.WEIGHT_ONLY)[: 1 if fact.rearranges else 2]:
        rows = target.rows_for(op, fmt, portable=request.portable) if fmt in target.defaults else ()
        if not rows:
            continue
        other = request_for(recipe, target, op, name, weighted=is_weighted(node), instead=fmt)
        entry = _examine_weighted(name, node, fact, rows=rows, request=other, target=target, opset=opset, around=around)
        if isinstance(entry, Candidate):
            return entry
        kept = kept or entry
    return kept


def _looks_up(node: ir.Node, fact: OpFact) -> bool:
    """Return whether a node picks rows from a constant table, as embeddings do."""
    return fact.rearranges and fact.weight is not None and _never_changes(node, fact.weight)


def _about_constants(node: ir.Node, table: str | None) -> str:
    if all(value is None or moved_tensor(value) is not None for value in node.inputs):
        return "computes from constants only"
    return (
        f"picks from constants, which stay in float: {table or 'only rows that a Gather picks are looked up as codes'}"
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
    request: NodeRequest,
    target: Target,
    opset: int | None,
    around: Around,
) -> Candidate | FloatNode:
    """Examine a node for a format that quantizes weights only, or activations at run time: nothing is observed."""
    op = op_key(node)

    def kept(code: str, text: str) -> FloatNode:
        return FloatNode(
            name=name, node=node, op=op, reason=Reason(code=code, text=text), rule=request.rule, request=request
        )

    if fact is None or fact.weight is None or not rows:
        text = f"{op} has no kernel in format {request.format} on target {target.name}{_instead(op, target)}"
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
            dtype = "unknown type" if value is None or value.dtype is None else value.dtype.name.lower()
            where = "" if value is None else f" '{value.name}'"
            return kept("type", f"{dtype} tensor{where}: only float32 is quantized")
    if request.splits and running and bool(node.attributes.get_int("transA", 0)):
        return kept(NO_SCHEME, f"{op} with transA = 1 has features along its first axis: none can be left out")
    if running and all(constant_tensor(node.inputs[slot]) is not None for slot in running):
        return kept("constant", "computes from constants only")
    if request.format is Format.WEIGHT_ONLY and isinstance(
        choose(rows, node, request, weighted=True, refuses=lambda row: None), Row
    ):
        grown = no_gain(node, fact, weights, request.weights)
        if grown is not None:
            return kept("no-gain", grown)
    usual = target.defaults_for(op)[request.format].weights
    fitting = fit(
        rows,
        node,
        request,
        usual,
        weighted=True,
        refuses=lambda row, scheme: (
            _missing(row, scheme, opset) or around.refuses(row, replace(request, weights=scheme), weights)
        ),
    )
    if isinstance(fitting, Reason):
        return kept(FAULT if around.refused else fitting.code, f"{op} on target {target.name}: {fitting.text}")
    row, request = fitting
    written, request = around.written(row, request, weights)
    return Candidate(
        name=name,
        node=node,
        op=op,
        fact=fact,
        row=row,
        request=request,
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
    """Return whether a node has a constant weight."""
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
