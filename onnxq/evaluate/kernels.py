"""read_kernels: what the runtime makes of a quantized model, against what was planned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from onnxq.graph.linear import DEQUANTIZE, QUANTIZE
from onnxq.graph.walk import nodes
from onnxq.ops import facts, op_key
from onnxq.passes.read.constants import is_dequantized_at_run_time
from onnxq.runtime.mapping import RunsAs, runs_as
from onnxq.runtime.readback import DQ_OPS, Q_OPS, op_counts, optimized_graph
from onnxq.types.plan import ALREADY, IMPORTED, Action, Decision, Plan
from onnxq.types.report import Kernels

if TYPE_CHECKING:
    import onnx_ir as ir

_COPIES = frozenset({"MemcpyFromHost", "MemcpyToHost"})


def read_kernels(float_model: ir.Model, quantized: ir.Model, plan: Plan, *, threads: int = 1) -> Kernels:
    """Read back what the runtime makes of both models, and which planned kernels did not come about.

    Raises:
        ModelError: the runtime cannot load one of the models.
    """
    ran = runs_as(quantized, optimized_graph(quantized, threads=threads, layout=False))
    served = op_counts(optimized_graph(quantized, threads=threads))
    planned = [entry for entry in plan.decisions if entry.action is Action.QUANTIZE and entry.kernel is not None]
    return Kernels(
        float_ops=op_counts(optimized_graph(float_model, threads=threads)),
        quantized_ops=served,
        unfused=_in_float(ran, plan) | _imported_in_float(float_model, quantized, ran, plan),
        expected={entry.node: entry.kernel or "" for entry in planned},
        actual={entry.node: ran[entry.node].op for entry in planned if entry.node in ran},
        conversions={op: count for op, count in served.items() if op in Q_OPS | DQ_OPS | _COPIES},
    )


def unfused(quantized: ir.Model, plan: Plan, *, threads: int = 1) -> dict[str, str]:
    """Return the nodes planned as integer kernels that run in float, each with what runs instead.

    Raises:
        ModelError: the runtime cannot load the model.
    """
    return _in_float(runs_as(quantized, optimized_graph(quantized, threads=threads, layout=False)), plan)


def paired_in_float(model: ir.Model) -> dict[str, str]:
    """Return the nodes of a quantized model that are meant to run on integers and run in float, and as what.

    That is: nodes between DequantizeLinear and QuantizeLinear, and products and convolutions of dequantized values.

    Raises:
        ModelError: the runtime cannot load the model.
    """
    return _paired_in_float(model, runs_as(model, optimized_graph(model, layout=False)))


def _paired_in_float(model: ir.Model, ran: Mapping[str, RunsAs]) -> dict[str, str]:
    return {
        name: f"{ran[name].op} in float"
        for name, node in nodes(model)
        if name in ran and not ran[name].integer and _is_paired(node)
    }


def _imported_in_float(
    original: ir.Model, quantized: ir.Model, ran: Mapping[str, RunsAs], plan: Plan
) -> dict[str, str]:
    """Return the nodes that stand between Q and DQ of another tool, as imported or rewritten, and run in float."""
    imported = {entry.node for entry in plan.decisions if entry.reason.code in (ALREADY, IMPORTED)}
    imported |= {name for name, node in nodes(original) if _is_paired(node)}
    return {name: how for name, how in _paired_in_float(quantized, ran).items() if name in imported}


def _is_paired(node: ir.Node) -> bool:
    """Return whether a node reads what is dequantized as the model runs, and multiplies it or is quantized behind."""
    key = op_key(node)
    if key in (*QUANTIZE, *DEQUANTIZE) or not any(map(is_dequantized_at_run_time, node.inputs)):
        return False
    readers = [use.node for value in node.outputs for use in value.uses()]
    multiplies = key in facts and facts.get(key).macs is not None
    return multiplies or (bool(readers) and all(op_key(reader) in QUANTIZE for reader in readers))


def _in_float(ran: Mapping[str, RunsAs], plan: Plan) -> dict[str, str]:
    return {
        decision.node: f"{ran[decision.node].op} in float"
        for decision in plan.decisions
        if decision.action is Action.QUANTIZE
        and decision.kernel is not None
        and decision.kernel not in DQ_OPS
        and not _looked_up(decision, plan)
        and decision.node in ran
        and not ran[decision.node].integer
    }


def _looked_up(decision: Decision, plan: Plan) -> bool:
    """Return whether a node reads weights from a codebook: it is meant to run in float."""
    return any(plan.tensors[key].scheme.codebook is not None for key in decision.inputs.values())
