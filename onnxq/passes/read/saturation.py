"""Which products of a quantized model can saturate in their kernels: of any tool's model, whatever it is written in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxq.graph.constants import moved_tensor
from onnxq.graph.linear import DEQUANTIZE
from onnxq.graph.names import name_of
from onnxq.graph.tensors import drop_pages
from onnxq.graph.walk import input_at, nodes
from onnxq.numerics.pair_safe import breaks
from onnxq.ops import op_key
from onnxq.ops.quantized import quantized_operator
from onnxq.passes.read.constants import Constant, imported_constant
from onnxq.targets import Target
from onnxq.targets.pair_sums import PRODUCTS, IntegerProduct, product_of
from onnxq.types.format import Format
from onnxq.types.scheme import QuantType

_EIGHT_BITS = {"INT8": QuantType.INT8, "UINT8": QuantType.UINT8}


@dataclass(frozen=True, kw_only=True, slots=True)
class Saturating:
    """A weight with pairs of codes that are too large for sums of 16 bits.

    Attributes:
        node: path name of the product.
        weight: name of the codes.
        pairs: how many pairs are too large.
        product: what the product is to its kernel.
    """

    node: str
    weight: str
    pairs: int
    product: IntegerProduct


def saturating(model: ir.Model, target: Target) -> Iterator[Saturating]:
    """Yield the weights of a quantized model whose sums can saturate in the kernels of a target, in graph order.

    Read are integer operators, and operators between DequantizeLinear and QuantizeLinear, one weight at a time.
    """
    for name, node in nodes(model):
        for product, weight, read in _products(node):
            limit = target.pair_limit(product, None)
            codes = None if limit is None else read()
            if limit is None or codes is None:
                continue
            pairs = breaks(codes, limit.axes, limit.limit)
            drop_pages(codes)
            if pairs:
                yield Saturating(node=name, weight=weight, pairs=pairs, product=product)


def may_saturate(node: ir.Node, target: Target, constants: Mapping[str, ir.Value]) -> bool:
    """Return whether a weight of a node can saturate; one whose codes are not known counts as one that can.

    Args:
        node: of an optimized graph, whose constants have no data.
        target: whose kernels it runs on.
        constants: those of the model, by name.
    """
    for product, name, _ in _products(node):
        limit, stored = target.pair_limit(product, None), constants.get(name)
        codes = None if limit is None or stored is None else _stored(stored, product)
        if limit is not None and (codes is None or breaks(codes, limit.axes, limit.limit)):
            return True
    return False


def _products(node: ir.Node) -> Iterator[tuple[IntegerProduct, str, Callable[[], npt.NDArray[np.generic] | None]]]:
    """Yield a node's products of codes by weights, with name of the weight and what reads its codes, if any."""
    key, operator = op_key(node), quantized_operator(node)
    if operator is not None and operator.weights and Format.WEIGHT_ONLY not in operator.formats:
        running: QuantType | None = QuantType.UINT8  # where the operator quantizes its input itself
        if 0 in operator.operands:
            slots = operator.operands[0]
            # Optimized graphs do not type all values.
            given = (input_at(node, slot) for slot in (slots.zero_point, slots.codes))
            running = next((kind for value in given if (kind := _type_of(value)) is not None), None)
        fmt = Format.DYNAMIC if Format.DYNAMIC in operator.formats else Format.QOPERATOR
        for slot in operator.weight_slots:
            value, kind = node.inputs[slot], _type_of(node.inputs[slot])
            if value is None or value.shape is None or running is None or kind is None or len(value.shape) < 2:
                continue
            product = product_of(node, slot, fmt=fmt, activations=running, weights=kind)
            product = replace(product, op=operator.float_op or "MatMul")
            yield product, name_of(value), partial(_stored, value, product)
    elif key in PRODUCTS and key != "LSTM":
        before = None if node.inputs[0] is None else node.inputs[0].producer()
        running = _type_of(before.inputs[0]) if before is not None and op_key(before) in DEQUANTIZE else None
        constant = imported_constant(node.inputs[1]) if running is not None else None
        if (
            running is None
            or not isinstance(constant, Constant)
            or constant.params.scheme.dtype not in _EIGHT_BITS.values()
        ):
            return
        if len(constant.shape) < 2 or (key == "Conv" and not _is_quantized(node.outputs[0])):
            return  # between DequantizeLinear and float: no integer kernel
        product = product_of(node, 1, fmt=Format.QDQ, activations=running, weights=constant.params.scheme.dtype)
        yield replace(product, shape=constant.shape), constant.name, constant.codes


def _stored(value: ir.Value, product: IntegerProduct) -> npt.NDArray[np.generic] | None:
    """Return the codes of a constant weight as the float operator has them, None where there are none."""
    tensor = moved_tensor(value)
    if tensor is None:
        return None
    # DynamicQuantizeLSTM has [directions, inputs, 4 * hidden], LSTM the transpose.
    return tensor.numpy().swapaxes(1, 2) if product.op == "LSTM" else tensor.numpy()


def _type_of(value: ir.Value | None) -> QuantType | None:
    """Return the type of the codes that a value holds, None where it holds none of 8 bits."""
    return None if value is None or value.dtype is None else _EIGHT_BITS.get(value.dtype.name)


def _is_quantized(value: ir.Value) -> bool:
    """Return whether a value is quantized behind its node, or behind a clamp that its quantization may absorb."""
    readers = [use.node for use in value.uses()]
    behind = [use.node for reader in readers for output in reader.outputs for use in output.uses()]
    return any(reader.op_type == "QuantizeLinear" for reader in (*readers, *behind))
