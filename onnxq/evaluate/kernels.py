"""read_kernels: what the runtime makes of a quantized model, against what was planned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from onnxq.runtime.mapping import RunsAs, runs_as
from onnxq.runtime.readback import DQ_OPS, Q_OPS, op_counts, optimized_graph
from onnxq.types.plan import Action, Decision, Plan
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
        unfused=_in_float(ran, plan),
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
