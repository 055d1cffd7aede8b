"""Facts about operators: which inputs are activations, weight and bias, along which axes; one file a family.

Facts come from the ONNX operator specification (https://onnx.ai/onnx/operators/) and hold on every target; what a
target runs in low precision stands in `onnxq.targets`. A new family is one new file that adds to `facts`:

    facts.add("Conv", OpFact(summary="convolution", activations=(0,), weight=0, ...))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from onnxq.registry import Registry
from onnxq.types.scheme import Range

if TYPE_CHECKING:
    import onnx_ir as ir

ALL_INPUTS = None
"""For `OpFact.activations`: every input is an activation (Concat)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpFact:
    """What quantization must know about one operator.

    Attributes:
        summary: what it does, in a few words.
        activations: input slots that hold values to quantize; None for all of them. Other slots (shapes, indices,
            bounds) are left alone.
        weight: slot that, where constant, holds trained weights with a channel axis.
        more_weights: further ones, of the same layout (recurrent operators).
        bias: slot of the bias.
        channel_axis: output-channel axis of the weight, from node and weight rank. None: no per-channel scales.
        reduction_axis: axis of the weight that is summed over, from node and weight rank.
        feature_axis: axis of the first activation that meets the weight's `reduction_axis` (its channels, where it has
            groups of them), from node and activation rank. None: the weight multiplies nothing.
        macs: multiply-accumulates for each output element, from node and input shapes; None for other operators.
        rearranges: output values are a selection or rearrangement of the first input's, so both share parameters.
        clamp: for operators that only clamp (Relu, Clip): their bounds, None where they are not constant. A clamp can
            be absorbed by the quantization of its output.
        outputs: output slots that hold values to quantize; None for all of them.
        whole_range: the few largest outputs count most: they are quantized over all that calibration saw, whatever a
            calibrator would leave out.
        image: what every output lies in, whatever the input; None where that is unbounded or depends on attributes.
    """

    summary: str
    activations: tuple[int, ...] | None
    weight: int | None = None
    more_weights: tuple[int, ...] = ()
    bias: int | None = None
    channel_axis: Callable[[ir.Node, int], int] | None = None
    reduction_axis: Callable[[ir.Node, int], int] | None = None
    feature_axis: Callable[[ir.Node, int], int] | None = None
    macs: Callable[[ir.Node, list[tuple[int, ...]]], int] | None = None
    rearranges: bool = False
    clamp: Callable[[ir.Node], Range | None] | None = None
    outputs: tuple[int, ...] | None = (0,)
    whole_range: bool = False
    image: Range | None = None

    def activation_slots(self, node: ir.Node) -> tuple[int, ...]:
        """Return the slots of `node` that hold activations and are not left empty."""
        slots = range(len(node.inputs)) if self.activations is None else self.activations
        return tuple(slot for slot in slots if slot < len(node.inputs) and node.inputs[slot] is not None)

    def output_slots(self, node: ir.Node) -> tuple[int, ...]:
        """Return the output slots of `node` that hold values to quantize."""
        slots = range(len(node.outputs)) if self.outputs is None else self.outputs
        return tuple(slot for slot in slots if slot < len(node.outputs))


UNBOUNDED = 3.4028234663852886e38
"""What a clamp without a bound has as a finite number: the largest of float32."""

facts: Registry[OpFact] = Registry("operator fact", "onnxq.ops")


def op_key(node: ir.Node) -> str:
    """Return `domain::op_type`, the domain left out for the ONNX operators."""
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def known_operators() -> frozenset[str]:
    """Return every operator type that exists: those of the ONNX specification and those with facts."""
    return _onnx_operators() | frozenset(facts.names())


@cache
def _onnx_operators() -> frozenset[str]:
    import onnx.defs

    schemas = onnx.defs.get_all_schemas()
    return frozenset(f"{schema.domain}::{schema.name}" if schema.domain else schema.name for schema in schemas)


def clamp_bounds(node: ir.Node) -> Range | None:
    """Return the bounds of a node that only clamps, None for any other and where they are not constant."""
    key = op_key(node)
    clamp = facts.get(key).clamp if key in facts else None
    return None if clamp is None else clamp(node)


def upper_bound(node: ir.Node) -> float | None:
    """Return what no output of a node exceeds, whatever its input, None where there is no such bound."""
    key = op_key(node)
    bounds = clamp_bounds(node) or (facts.get(key).image if key in facts else None)
    return None if bounds is None or bounds.high >= UNBOUNDED else bounds.high
