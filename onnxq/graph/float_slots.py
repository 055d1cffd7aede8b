"""Which inputs and outputs of a node change their type together when its floats do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

_DOMAINS = {"", "ai.onnx"}


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatSlots:
    """Slots of a node that hold float32 now and may hold a shorter type. complete: no output would stay behind."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    complete: bool


def float_slots(node: ir.Node, opset: int, onnx_type: str) -> FloatSlots:
    """Return the slots whose type parameter allows `onnx_type` ("float16"), by the ONNX operator's schema.

    A slot of a fixed type (the scales of Resize) is none of them. An output counts where an input of the same type
    parameter does; otherwise an attribute decides on its type (Cast, RandomNormalLike), and the node is not complete.
    Operators of other domains have all their floats in one type parameter (com.microsoft::MatMulNBits).
    """
    import onnx_ir as ir

    inputs = [slot for slot, value in enumerate(node.inputs) if value is not None and value.dtype == ir.DataType.FLOAT]
    outputs = [slot for slot, value in enumerate(node.outputs) if value.dtype == ir.DataType.FLOAT]
    if node.domain not in _DOMAINS:
        return FloatSlots(inputs=tuple(inputs), outputs=tuple(outputs), complete=True)
    import onnx

    schema = onnx.defs.get_schema(node.op_type, opset, "")
    free = {
        entry.type_param_str for entry in schema.type_constraints if f"tensor({onnx_type})" in entry.allowed_type_strs
    }
    taken = {slot: parameter for slot in inputs if (parameter := _parameter(schema.inputs, slot)) in free}
    tied = set(taken.values())
    moved = tuple(slot for slot in outputs if _parameter(schema.outputs, slot) in tied)
    fixed = {_parameter(schema.outputs, slot) for slot in outputs} - free
    return FloatSlots(
        inputs=tuple(taken),
        outputs=moved,
        complete=all(slot in moved or _parameter(schema.outputs, slot) in fixed for slot in outputs),
    )


def _parameter(slots: Sequence[onnx.defs.OpSchema.FormalParameter], slot: int) -> str:
    """Return the type parameter, or fixed type, of a slot; the last one of a variadic operator represents the rest."""
    return slots[min(slot, len(slots) - 1)].type_str
