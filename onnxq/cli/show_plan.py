"""A plan as tables, and everything about one node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.text import Text

from onnxq.cli.table import table
from onnxq.cli.terminal import is_narrow, show, show_json
from onnxq.errors import RecipeError, nearest
from onnxq.types.equalization import Equalization
from onnxq.types.float_type import FloatType
from onnxq.types.plain_data import plain
from onnxq.types.plan import Action, Decision, Plan, TensorPlan
from onnxq.types.scheme import QuantParams

if TYPE_CHECKING:
    from rich.console import RenderableType

_INDENT = len("quantize  ")


def show_plan(plan: Plan) -> None:
    """Print every decision with its reason, then the counts."""
    if is_narrow():
        for decision in plan.decisions:
            reason = Padding(Text(decision.reason.text, style="dim"), (0, 0, 0, _INDENT))
            show(Text.assemble(_action(decision), f"  {decision.op}  {decision.node}"), reason)
    else:
        rows = [(_action(decision), decision.op, decision.node, decision.reason.text) for decision in plan.decisions]
        show(table(["decision", "operator", "node", "why"], rows))
    kept = Counter(decision.reason.code for decision in plan.decisions if decision.action is Action.KEEP)
    quantized = len(plan.decisions) - kept.total()
    show("", f"{quantized} of {len(plan.decisions)} nodes are quantized ({plan.format}, target {plan.target})")
    if plan.times:
        show(f"what is cheaper in float, by times of: {plan.times}")
    short = Counter(decision.float_type for decision in plan.decisions if decision.float_type is not None)
    if short:
        stored = Counter(entry.float_type for entry in plan.constants.values())
        counts = [(str(kind), short[kind], stored[kind]) for kind in FloatType if short[kind] or stored[kind]]
        show("", table(["float type", "nodes>", "constants>"], counts))
        why = Counter(entry.float_reason.code for entry in plan.decisions if entry.float_reason is not None)
        show("", table(["float type because", "nodes>"], why.most_common()))
    if plan.bias_corrections:
        show(f"biases corrected by what rounding shifts on average: {len(plan.bias_corrections)}")
    if kept:
        show("", table(["kept in float because", "nodes>"], kept.most_common()))
    if plan.equalizations:
        show("", equalization_table(plan.equalizations))


def equalization_table(entries: Iterable[Equalization]) -> RenderableType:
    """Return what was done so that the model is easier to quantize, and what not, as a table."""
    rows = []
    for entry in entries:
        gain = f"{entry.after / entry.before:.2f}x" if entry.before else ""
        done = Text("done" if entry.taken else "no", style="green" if entry.taken else "yellow")
        rows.append((done, entry.method, entry.tensor, gain if entry.taken else "", entry.text))
    return table(["equalized", "method", "tensor", "expected error>", "how"], rows)


def show_node(plan: Plan, name: str, *, as_json: bool) -> None:
    """Print all that the plan knows about one node.

    Raises:
        RecipeError: there is no such node; names the nearest.
    """
    decision = next((entry for entry in plan.decisions if entry.node == name), None)
    if decision is None:
        raise RecipeError(f"the prepared model has no node '{name}'{nearest(name, [e.node for e in plan.decisions])}")
    edges = [
        *(("input", slot, plan.tensors[key]) for slot, key in sorted(decision.inputs.items())),
        *(("output", slot, plan.tensors[key]) for slot, key in sorted(decision.outputs.items())),
    ]
    if as_json:
        show_json(
            {**plain(decision), "edges": [{"side": side, "slot": slot} | plain(edge) for side, slot, edge in edges]}
        )
        return
    lines = {
        "node": decision.node,
        "operator": decision.op,
        "decision": str(decision.action),
        "why": f"{decision.reason.text} [{decision.reason.code}]",
        "decided by": "the defaults" if decision.rule is None else f"rule {decision.rule} of the recipe",
        "runs as": _kernel(decision),
    }
    if decision.float_type is not None and decision.float_reason is not None:
        lines["float type"] = f"{decision.float_type}: {decision.float_reason.text} [{decision.float_reason.code}]"
    for word, value in lines.items():
        show(Text(f"{word:10}  {value}"))
    for side, slot, edge in edges:
        show("")
        for word, value in {f"{side} {slot}": edge.tensor, **_edge(edge)}.items():
            show(Text(f"{word:10}  {value}"))


def _kernel(decision: Decision) -> str:
    if decision.action is Action.KEEP:
        return f"{decision.op}, in float"
    return decision.kernel or "nothing of its own"


def _action(decision: Decision) -> Text:
    return Text(f"{decision.action:{_INDENT - 2}}", style="green" if decision.action is Action.QUANTIZE else "yellow")


def _edge(edge: TensorPlan) -> dict[str, str]:
    lines = {"role": str(edge.role), "scheme": str(edge.scheme)}
    if edge.params is not None:
        lines |= _params(edge.params)
    if edge.method is not None:
        lines["method"] = edge.method
    if edge.scale_from is not None:
        lines["scale"] = "scale of '{}' times scale of '{}'".format(*edge.scale_from)
    if edge.shares is not None:
        lines["shared with"] = edge.shares
    if edge.reason:
        lines["why"] = edge.reason
    return lines


def _params(params: QuantParams) -> dict[str, str]:
    low, high = params.scheme.code_range
    if params.scale.ndim:
        return {"scale": f"{params.scale.size} of them, {params.scale.min():.6g} .. {params.scale.max():.6g}"}
    scale, zero = float(params.scale), int(params.zero_point)
    return {
        "scale": f"{scale:.6g}",
        "zero point": str(zero),
        "range": f"{(low - zero) * scale:.6g} .. {(high - zero) * scale:.6g}",
    }
