"""What weights take in a file, in float and quantized."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxq.graph.constants import moved_tensor
from onnxq.numerics.blocks import parameter_shape
from onnxq.ops import OpFact
from onnxq.types.scheme import PerBlock, PerChannel, PerTensor, Scheme

if TYPE_CHECKING:
    import onnx_ir as ir

_OVERHEAD = 256  # names and attributes of what is added to the graph


def with_axis(scheme: Scheme, node: ir.Node, fact: OpFact, rank: int) -> Scheme:
    """Return a weight's scheme with its axis filled in; per tensor where the weight has no channels."""
    granularity = scheme.granularity
    if isinstance(granularity, PerBlock) and granularity.axis is None and fact.reduction_axis is not None:
        return replace(scheme, granularity=replace(granularity, axis=fact.reduction_axis(node, rank)))
    if isinstance(granularity, PerChannel) and granularity.axis is None:
        if fact.channel_axis is None or rank < 2:
            return replace(scheme, granularity=PerTensor())
        return replace(scheme, granularity=PerChannel(axis=fact.channel_axis(node, rank)))
    return scheme


def no_gain(node: ir.Node, fact: OpFact, slots: Sequence[int], scheme: Scheme) -> str | None:
    """Return why a node's weights would not get smaller quantized, None if they would."""
    in_float, on_codes = 0, _OVERHEAD * len(slots)
    for slot in slots:
        tensor = moved_tensor(node.inputs[slot])
        assert tensor is not None
        shape = tuple(tensor.shape.numpy())
        in_float += tensor.nbytes
        on_codes += _bytes(shape, with_axis(scheme, node, fact, len(shape)))
    if on_codes < in_float:
        return None
    return f"its weights take {in_float} bytes in float and would take {on_codes} quantized, all they need included"


def _bytes(shape: tuple[int, ...], scheme: Scheme) -> int:
    """Codes with all blocks filled up, float32 scales and, where there are any, zero points; or tables of values."""
    granularity = scheme.granularity
    scales = math.prod(parameter_shape(shape, granularity))
    codes = scales * granularity.size if isinstance(granularity, PerBlock) else math.prod(shape)
    bits = scheme.dtype.stored_bits
    if scheme.vector > 1 and scheme.codebook is not None:
        return -(-codes * bits // (8 * scheme.vector)) + (4 * scheme.vector << scheme.codebook) + 2 * _OVERHEAD
    if scheme.codebook is not None:
        tables = 4 * (scales << scheme.codebook) + (4 * scales if scales > 1 else 0)  # and where each begins
        return -(-codes * bits // 8) + tables + _OVERHEAD
    return -(-(codes + (0 if scheme.symmetric else scales)) * bits // 8) + 4 * scales
