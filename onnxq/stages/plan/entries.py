"""What facts alone say of a node: it could run quantized, or it stays in float and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxq.ops import OpFact
from onnxq.stages.plan.rules import NodeRequest
from onnxq.targets import Row
from onnxq.targets.faults import WriteRequest
from onnxq.types.plan import Reason

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Candidate:
    """A node that could run quantized.

    Attributes:
        name: unique name. node: the node. op: `domain::op_type`. fact, row: what is known of it.
        request: what is wanted of it.
        activations: input slots with values computed at run time. constants: activation slots with constants.
        weights: slots of constant weights. bias: slot of a constant bias to quantize, None if absent.
        hidden: whether it lies where values cannot be observed. note: what is to be said of it besides, in words.
        written: how it is written, around the target's faults.
        quantized_output: of an imported node, whether its output is quantized; None where the plan decides that.
    """

    name: str
    node: ir.Node
    op: str
    fact: OpFact
    row: Row
    request: NodeRequest
    activations: tuple[int, ...]
    constants: tuple[int, ...] = ()
    weights: tuple[int, ...] = ()
    bias: int | None = None
    hidden: bool = False
    note: str = ""
    written: WriteRequest
    quantized_output: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FloatNode:
    """A node that stays in float, and why; `clamp` marks one that quantizing its output could absorb."""

    name: str
    node: ir.Node
    op: str
    reason: Reason
    rule: int | None = None
    request: NodeRequest | None = None
    clamp: bool = False
