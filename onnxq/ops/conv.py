"""Convolutions. Weight layout: Conv [out, in/group, *kernel], ConvTranspose [in, out/group, *kernel]."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnxq.ops import OpFact, facts

if TYPE_CHECKING:
    import onnx_ir as ir


def _conv_macs(_: ir.Node, shapes: list[tuple[int, ...]]) -> int:
    return math.prod(shapes[1][1:])


def _transpose_macs(node: ir.Node, shapes: list[tuple[int, ...]]) -> int:
    # Each output element sums over the input channels of its group; a stride leaves 1/stride of the taps on average.
    group = node.attributes.get_int("group", 1)
    strides = math.prod(node.attributes.get_ints("strides", ()))
    return max(1, shapes[1][0] // group * math.prod(shapes[1][2:]) // strides)


facts.add(
    "Conv",
    OpFact(
        summary="convolution",
        activations=(0,),
        weight=1,
        bias=2,
        channel_axis=lambda node, rank: 0,
        reduction_axis=lambda node, rank: 1,
        feature_axis=lambda node, rank: 1,
        macs=_conv_macs,
    ),
)
facts.add(
    "ConvTranspose",
    OpFact(
        summary="transposed convolution",
        activations=(0,),
        weight=1,
        bias=2,
        # With groups, axis 1 holds the channels of one group only: those share a scale across groups.
        channel_axis=lambda node, rank: 1,
        reduction_axis=lambda node, rank: 0,
        feature_axis=lambda node, rank: 1,
        macs=_transpose_macs,
    ),
)
