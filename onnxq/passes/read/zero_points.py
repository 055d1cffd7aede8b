"""Zero points of imported QuantizeLinear and DequantizeLinear, as kernels and other providers want them.

    codes of 8 or 16 bits, none given     an explicit 0 for each scale
    int32 (biases), 0 given               none

Left out is 0 (ONNX specification of both operators), so nothing changes but the form. onnxruntime (1.32 at least) makes
QGemm, MaxPool and Reshape of codes only where zero points are given; WebGPU and WebNN refuse those of int32. Constants
stay as they are where nothing else that their readers compute with is quantized: no integer kernel reads them.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxq.graph.constants import constant_array, moved_tensor
from onnxq.graph.linear import DEQUANTIZE, QUANTIZE
from onnxq.graph.walk import bodies, input_at
from onnxq.graph.writer import Writer, drop_unread
from onnxq.ops import op_key
from onnxq.passes.read.constants import MOVES, is_dequantized_at_run_time

_EXPLICIT = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16})


def unsettled(model: ir.Model) -> bool:
    """Return whether `settle_zero_points` would change anything."""
    return any(_lacking(node) is not None or _is_useless(node) for graph in bodies(model) for node in graph)


def settle_zero_points(model: ir.Model) -> str:
    """Write zero points that were left out and drop those of int32, in place; return in words how many."""
    writer, written, dropped = Writer(model), 0, 0
    for graph in bodies(model):
        for node in graph:
            dtype = _lacking(node)
            if dtype is not None:
                zeros = np.zeros(node.inputs[1].shape.numpy(), dtype.numpy())  # type: ignore[union-attr]
                node.resize_inputs(3)
                node.replace_input_with(2, writer.store(graph, f"{node.inputs[0].name}/zero_point", zeros))  # type: ignore[union-attr]
                if op_key(node) in QUANTIZE:  # the zero point has that type now
                    node.attributes.pop("output_dtype", None)
                written += 1
            elif _is_useless(node):
                node.resize_inputs(2)
                dropped += 1
    if dropped:
        drop_unread(model)
    parts = [f"zero points that {written} imported nodes left out are written as 0"] if written else []
    parts += [f"{dropped} imported nodes of int32 lose theirs, which are 0"] if dropped else []
    return "; ".join(parts)


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
