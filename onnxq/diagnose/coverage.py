"""Every operator that holds or multiplies weights: quantized, or in float and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from onnxq.graph.constants import constant_tensor, moved_tensor
from onnxq.graph.names import name_of
from onnxq.graph.walk import nodes
from onnxq.ops import facts, op_key
from onnxq.ops.quantized import quantized_operator
from onnxq.stages.plan.already_quantized import is_quantized
from onnxq.stages.plan.entries import Candidate, FloatNode
from onnxq.stages.plan.sizes import Sizes, multiply_accumulates
from onnxq.types.diagnosis import Covered, State
from onnxq.types.plan import ALREADY, IMPORTED, Action, Plan, Reason
from onnxq.types.report import Coverage
from onnxq.types.statistics import Statistics

if TYPE_CHECKING:
    import onnx_ir as ir

QUANTIZED, UNFUSED = "quantized", "unfused"
_LEAST = 1024  # elements of a constant that make an operator one that holds weights, if it is none by its nature


def coverage(
    examined: Iterable[Candidate | FloatNode], sizes: Sizes, unfused: Mapping[str, str] | None = None
) -> Iterator[Covered]:
    """Yield the operators of a prepared model that hold or multiply weights, in graph order.

    Args:
        examined: every node, as the planner sees it.
        sizes: of tensors.
        unfused: path names of nodes between Q and DQ that the runtime runs in float, and as what.
    """
    unfused = unfused or {}
    measure = _Measure(sizes)
    for entry in examined:
        measured = measure(entry.node)
        if measured is None:
            continue
        size, macs, quantized = measured
        quantized = quantized or (isinstance(entry, FloatNode) and entry.reason.code == ALREADY)
        possible = isinstance(entry, Candidate)
        reason = None if quantized or isinstance(entry, Candidate) else entry.reason
        if entry.name in unfused:
            quantized, possible = False, False
            reason = Reason(code=UNFUSED, text=f"stands between quantized values, and runs as {unfused[entry.name]}")
        yield Covered(
            node=entry.name,
            op=entry.op,
            state=State.QUANTIZED if quantized else State.POSSIBLE if possible else State.FLOAT,
            reason=reason,
            weight_bytes=size,
            macs=macs,
        )


def planned(plan: Plan, model: ir.Model, statistics: Statistics) -> Coverage:
    """Return how much of a prepared model is quantized once a plan is carried out."""
    measure, decisions = _Measure(Sizes(statistics)), {entry.node: entry for entry in plan.decisions}
    sizes, macs = Counter[str](), Counter[str]()
    for name, node in nodes(model):
        measured = measure(node)
        decision = decisions.get(name)
        if measured is None or decision is None:
            continue
        done = measured[2] or decision.action is Action.QUANTIZE or decision.reason.code in (ALREADY, IMPORTED)
        code = QUANTIZED if done else decision.reason.code
        sizes[code] += measured[0]
        macs[code] += measured[1]
    return Coverage(weight_bytes=dict(sizes.most_common()), macs=dict(macs.most_common()))


class _Measure:
    """Measures nodes that hold or multiply weights; each weight counts once."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._counted: set[str] = set()

    def __call__(self, node: ir.Node) -> tuple[int, int, bool] | None:
        """Return bytes, operations, and whether they are quantized already; None for other nodes."""
        if moved_tensor(node.outputs[0]) is not None:  # a weight on its way to its operator
            return None
        key = op_key(node)
        fact = facts.get(key) if key in facts else None
        multiplies = fact is not None and (fact.macs is not None or bool(fact.more_weights))
        tensors = {slot: tensor for slot in _weights(node) if (tensor := _stored(node.inputs[slot])) is not None}
        if not tensors and not multiplies:
            return None
        size = 0
        for slot, tensor in tensors.items():
            name = _root(node.inputs[slot])
            size += 0 if name in self._counted else tensor.nbytes
            self._counted.add(name)
        operator = quantized_operator(node)
        quantized = bool(operator is not None and operator.weights) or _reads_codes(node, tensors)
        elements = sum(tensor.size for tensor in tensors.values())
        return size, multiply_accumulates(node, self._sizes, elements), quantized


def holds_codes(model: ir.Model) -> bool:
    """Return whether a part of the model is quantized."""
    return any(is_quantized(node) is not None for _, node in nodes(model))


def _weights(node: ir.Node) -> tuple[int, ...]:
    """Return the slots that hold a node's weights."""
    inputs, key, operator = node.inputs, op_key(node), quantized_operator(node)
    if operator is not None and operator.weights:
        slots: Iterable[int] = operator.weight_slots
    elif key in ("DequantizeLinear", "QuantizeLinear", "Constant", "Cast", "Transpose", "Reshape"):
        slots = ()
    elif key in facts and (weight := facts.get(key).weight) is not None:
        slots = (weight, *facts.get(key).more_weights)
    else:
        slots = (slot for slot, value in enumerate(inputs) if _is_large(value))
    return tuple(slot for slot in slots if slot < len(inputs) and inputs[slot] is not None)


def _is_large(value: ir.Value | None) -> bool:
    tensor = _stored(value)
    return tensor is not None and tensor.size >= _LEAST and tensor.dtype.is_floating_point()


def _stored(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the constant that a value holds, or is dequantized from."""
    tensor = moved_tensor(value)
    if tensor is not None or value is None:
        return tensor
    node = value.producer()
    if node is None:
        return None
    if node.op_type in ("DequantizeLinear", "Transpose", "Reshape", "Cast", "Gather") and not node.domain:
        return _stored(node.inputs[0])
    return None


def _root(value: ir.Value | None) -> str:
    """Return the name of the stored constant behind a value."""
    node = None if value is None else value.producer()
    if node is not None and node.inputs and constant_tensor(value) is None:
        return _root(node.inputs[0])
    return name_of(value)


def _reads_codes(node: ir.Node, weights: Iterable[int]) -> bool:
    """Return whether a float operator's weights, or all that it multiplies, come from quantized values."""
    read = [node.inputs[slot] for slot in weights] or [value for value in node.inputs[:2] if value is not None]
    return bool(read) and all(_from_codes(value) for value in read)


def _from_codes(value: ir.Value | None) -> bool:
    node = None if value is None else value.producer()
    if node is None or node.domain:
        return False
    if node.op_type in ("Transpose", "Reshape"):
        return _from_codes(node.inputs[0])
    return node.op_type == "DequantizeLinear"
