"""Zero points of imported QuantizeLinear and DequantizeLinear, as kernels and other providers want them.

    codes of 8 or 16 bits, none given     an explicit 0 for each scale
    int32 (biases), 0 given               none

Left out is 0 (ONNX specification of both operators), so nothing changes but the form. onnxruntime (1.32 at least) makes
QGemm, MaxPool and Reshape of codes only where zero points are given; WebGPU and WebNN refuse those of int32. Constants
stay as they are where nothing else that their readers compute with is quantized: no integer kernel reads them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxq.graph.constants import constant_array, moved_tensor
from onnxq.graph.linear import DEQUANTIZE, QUANTIZE
from onnxq.graph.walk import bodies, input_at
from onnxq.graph.writer import Writer, drop_unread
from onnxq.ops import op_key
from onnxq.passes.read.constants import MOVES, is_dequantized_at_run_time

_EXPLICIT = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16})


@dataclass(frozen=True, kw_only=True, slots=True)
class SettledZeroPoints:
    """How many nodes got an explicit zero point, and how many of int32 lost theirs."""

    written: int = 0
    dropped: int = 0

    def __bool__(self) -> bool:
        """Return whether anything is to be done."""
        return bool(self.written or self.dropped)

    def __str__(self) -> str:
        """Return it in words."""
        parts = []
        if self.written:
            parts.append(f"zero points that {self.written} imported nodes left out are written as 0")
        if self.dropped:
            parts.append(f"{self.dropped} imported nodes of int32 lose theirs, which are 0")
        return "; ".join(parts)


def unsettled(model: ir.Model) -> SettledZeroPoints:
    """Return what `settle_zero_points` would do."""
    found = [node for graph in bodies(model) for node in graph]
    return SettledZeroPoints(
        written=sum(_lacking(node) is not None for node in found), dropped=sum(map(_is_useless, found))
    )


def settle_zero_points(model: ir.Model) -> SettledZeroPoints:
    """Write zero points that were left out and drop those of int32, in place; return how many."""
    done, writer = unsettled(model), Writer(model)
    for graph in bodies(model):
        for node in graph:
            dtype = _lacking(node)
            if dtype is not None:
                zeros = np.zeros(node.inputs[1].shape.numpy(), dtype.numpy())  # type: ignore[union-attr]
                node.resize_inputs(3)
                node.replace_input_with(2, writer.store(graph, f"{node.inputs[0].name}/zero_point", zeros))  # type: ignore[union-attr]
                node.attributes.pop("output_dtype", None) if op_key(node) in QUANTIZE else None
            elif _is_useless(node):
                node.resize_inputs(2)
    if done.dropped:
        drop_unread(model)
    return done


def _lacking(node: ir.Node) -> ir.DataType | None:
    """Return the type of the zero point that a node lacks, None where it lacks none."""
    key, scale = op_key(node), input_at(node, 1)
    if key not in (*QUANTIZE, *DEQUANTIZE) or input_at(node, 2) is not None or "block_size" in node.attributes:
        return None
    if scale is None or scale.shape is None or not scale.shape.is_static() or len(scale.shape) > 1:
        return None
    codes = node.inputs[0] if key in DEQUANTIZE else node.outputs[0]
    if codes is None or codes.dtype not in _EXPLICIT:
        return None
    alone = key in DEQUANTIZE and moved_tensor(codes) is not None and not _meets_codes(node.outputs[0])
    return None if alone else codes.dtype


def _meets_codes(constant: ir.Value) -> bool:
    """Return whether a reader of a dequantized constant reads another value that is dequantized as the model runs."""
    for reader in {use.node for use in constant.uses()}:
        if op_key(reader) in MOVES:
            if any(_meets_codes(value) for value in reader.outputs):
                return True
            continue
        if any(is_dequantized_at_run_time(value) for value in reader.inputs if value is not constant):
            return True
    return False


def _is_useless(node: ir.Node) -> bool:
    """Return whether a node dequantizes int32 with a zero point, which can only be 0."""
    codes, zero_point = input_at(node, 0), input_at(node, 2)
    if op_key(node) not in DEQUANTIZE or codes is None or codes.dtype is not ir.DataType.INT32 or zero_point is None:
        return False
    zeros = constant_array(zero_point)
    return zeros is not None and not zeros.any()
