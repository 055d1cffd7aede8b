"""Imported quantized constants: what is dequantized, and what it goes through on its way to a reader.

codes [N, K/B, B] -> DequantizeLinear -> Reshape [N, K] -> Transpose -> MatMul
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace as replace_fields
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxq.graph.constants import constant_array, constant_tensor, moved_tensor
from onnxq.graph.linear import DEQUANTIZE, QUANTIZE
from onnxq.graph.tensors import drop_pages
from onnxq.graph.walk import input_at
from onnxq.numerics.affine import dequantize, quantize
from onnxq.numerics.layout import ParameterLayout
from onnxq.ops import op_key
from onnxq.types.scheme import PerBlock, PerChannel, PerTensor, PerToken, QuantParams, QuantType, Scheme

MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
_COMPUTES = ("Add", "Cast", "CastLike", "Div", "Identity", "Mul", "Neg", "Sub")  # what exporters put behind codes
_INTEGERS = frozenset(kind.value for kind in QuantType if not kind.is_float)

Move: TypeAlias = tuple[Literal["transpose", "reshape"], tuple[int, ...]]
"""What numpy is to do with an array, and the order of axes or the shape."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Constant:
    """An imported quantized constant: its name and graph, the tensor that holds the codes, and their parameters.

    A float tensor is one that was imported behind a Q; its codes are what that makes of it. `moves`: what happens to
    the codes before they are read; the parameters are those of the result.
    """

    name: str
    graph: ir.Graph
    tensor: ir.TensorProtocol
    params: QuantParams
    moves: tuple[Move, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the codes."""
        shape = tuple(self.tensor.shape.numpy())
        for how, what in self.moves:
            shape = what if how == "reshape" else tuple(shape[axis] for axis in what)
        return shape

    def codes(self) -> npt.NDArray[np.int32]:
        """Return the codes, of the constant's shape."""
        array = self.tensor.numpy()
        for how, what in self.moves:
            array = array.reshape(what) if how == "reshape" else array.transpose(what)
        array = np.ascontiguousarray(array).reshape(array.shape)
        if array.dtype == np.float32:
            return np.asarray(quantize(array, self.params))
        return array.astype(np.int32)

    def lowest(self) -> int:
        """Return the lowest code, 0 if there are none; a file that holds them is not kept in memory."""
        stored = self.tensor.numpy()
        codes = self.codes() if stored.dtype == np.float32 else stored
        lowest = int(codes.min()) if codes.size else 0
        drop_pages(stored)
        return lowest

    def values(self) -> npt.NDArray[np.float32]:
        """Return what the codes represent."""
        return dequantize(self.codes(), self.params)


def imported_constant(value: ir.Value | None, blocks: int | None = None) -> Constant | str | None:
    """Return the quantized constant that a value is dequantized from.

    Args:
        value: float.
        blocks: its axis along which its reader takes blocks of codes that were moved, None for none.

    Returns:
        The constant; what stands in the way where the codes are there; None where there are none.
    """
    node = None if value is None else value.producer()
    between = []
    while node is not None and op_key(node) in (*MOVES, *_COMPUTES):
        between.append(node)
        node = _before(node)
    if node is None or op_key(node) not in DEQUANTIZE or not _holds_codes(node):
        return None
    for each in between:
        if each.op_type not in MOVES:
            return f"'{each.name}' ({each.op_type}) stands between its codes and it"
    constant = _dequantized(node)
    if constant is None:
        return f"the parameters of '{node.name}' are no float32 constants for codes of integers"
    return _moved(constant, list(reversed(between)), blocks) if between else constant


def rescaled(constant: Constant, values: npt.NDArray[np.float32]) -> Constant | None:
    """Return a constant whose scales, one for each index of the first axis, make it a scaled one.

    Args:
        constant: the constant.
        values: float32 [channels, ...], what its codes represent times a factor for each channel.

    Returns:
        The same codes on other scales, negated where a factor is negative; None where `values` are not that.
    """
    old, codes, scheme = constant.values().astype(np.float64), constant.codes(), constant.params.scheme
    on_channels = isinstance(scheme.granularity, PerTensor) or scheme.granularity == PerChannel(axis=0)
    if old.shape != values.shape or not on_channels or not old.size:
        return None
    rows, wanted = old.reshape(len(old), -1), values.reshape(len(old), -1)
    place = np.abs(rows).argmax(axis=1)[:, None]
    largest, there = np.take_along_axis(rows, place, 1), np.take_along_axis(wanted, place, 1)
    factor = np.divide(there, largest, out=np.ones_like(largest), where=largest != 0)
    if not (np.isfinite(factor).all() and factor.all() and np.allclose(wanted, rows * factor, rtol=1e-5, atol=0)):
        return None
    negative = factor[:, 0] < 0
    if negative.any() and not (scheme.dtype is QuantType.INT8 and scheme.symmetric and codes.min() > -128):
        return None
    beside = (-1, *[1] * (codes.ndim - 1))
    signs, dtype = np.where(negative, -1, 1).reshape(beside), ir.DataType.from_numpy(np.dtype(scheme.dtype.value))
    params = QuantParams(
        scheme=replace_fields(scheme, granularity=PerChannel(axis=0)),
        scale=np.asarray(np.abs(factor[:, 0]) * constant.params.scale, np.float32),
        zero_point=np.broadcast_to(constant.params.zero_point, len(old)).astype(np.int32),
    )
    tensor = ir.LazyTensor(
        lambda: ir.tensor((constant.codes() * signs).astype(scheme.dtype.value)),
        dtype=dtype,
        shape=ir.Shape(codes.shape),
    )
    return replace_fields(constant, tensor=tensor, params=params, moves=())


def params_of(node: ir.Node, value: ir.Value) -> QuantParams | None:
    """Return the parameters of a QuantizeLinear or DequantizeLinear of `value`; None where they are not of our kind."""
    scale, zero_point = constant_array(input_at(node, 1)), input_at(node, 2)
    zeros = constant_array(zero_point)
    if scale is None or scale.dtype != np.float32 or (zero_point is not None and zeros is None):
        return None
    kind = node.inputs[0].dtype if op_key(node) in DEQUANTIZE else node.outputs[0].dtype  # type: ignore[union-attr]
    kind = zero_point.dtype if zero_point is not None else kind
    name = "" if kind is None else kind.name.lower()
    if name not in _INTEGERS or not np.isfinite(scale).all():
        return None
    dtype = QuantType(name)
    rank = None if value.shape is None else len(value.shape)
    granularity = _granularity(node, scale.shape, rank)
    if granularity is None:
        return None
    if isinstance(granularity, PerTensor):
        scale, zeros = scale.reshape(()), None if zeros is None else zeros.reshape(())
    zero = np.zeros(scale.shape, np.int32) if zeros is None else zeros.astype(np.int32)
    middle = 0 if dtype.signed else (dtype.maximum + 1) // 2
    if zero.shape != scale.shape or (dtype is QuantType.INT32 and zero.any()):
        return None
    scheme = Scheme(
        dtype=dtype,
        symmetric=bool((zero == middle).all()) or dtype is QuantType.INT32,
        granularity=granularity,
        narrow=False,
    )
    return QuantParams(scheme=scheme, scale=scale, zero_point=zero)


def _granularity(node: ir.Node, shape: tuple[int, ...], rank: int | None) -> Any:
    """Return which elements share a scale, None where that is unknown."""
    if not shape or shape == (1,):
        return PerTensor()
    axis = node.attributes.get_int("axis", 1)
    if rank is None or not -rank <= axis < rank:
        return None
    block = node.attributes.get_int("block_size", 0)
    if block:
        return PerBlock(size=block, axis=axis % rank) if len(shape) == rank else None
    return PerChannel(axis=axis % rank) if len(shape) == 1 else None


def is_dequantized_at_run_time(value: ir.Value | None) -> bool:
    """Return whether a value is dequantized from codes that are no constant."""
    producer = None if value is None else value.producer()
    return producer is not None and op_key(producer) in DEQUANTIZE and moved_tensor(producer.inputs[0]) is None


def _before(node: ir.Node) -> ir.Node | None:
    """Return where an operator gets what it moves, or computes with constants, from; None if it computes with more."""
    first, *others = node.inputs
    if op_key(node) in _COMPUTES and any(moved_tensor(value) is None for value in others):
        return None
    return None if first is None else first.producer()


def _holds_codes(node: ir.Node) -> bool:
    """Return whether a DequantizeLinear unpacks a constant, or rounds a float one as training writes it."""
    codes = node.inputs[0]
    if moved_tensor(codes) is not None:
        return True
    before = None if codes is None else codes.producer()
    return before is not None and op_key(before) in QUANTIZE and constant_tensor(before.inputs[0]) is not None


def _dequantized(node: ir.Node) -> Constant | None:
    """Return the constant that a DequantizeLinear unpacks."""
    codes = node.inputs[0]
    params = None if codes is None else params_of(node, codes)
    if params is None or codes is None:
        return None
    stored = moved_tensor(codes)
    if stored is not None and codes.graph is not None:
        return Constant(name=codes.name or "", graph=codes.graph, tensor=stored, params=params)
    quantize_node = codes.producer()  # as training writes it: a float weight behind a pair
    if quantize_node is None or op_key(quantize_node) not in QUANTIZE:
        return None
    source = quantize_node.inputs[0]
    tensor = constant_tensor(source)
    if source is None or tensor is None or tensor.dtype.name != "FLOAT" or params_of(quantize_node, source) != params:
        return None
    if source.graph is None or not (params.scale > 0).all():
        return None
    return Constant(name=source.name or "", graph=source.graph, tensor=tensor, params=params)


def _moved(constant: Constant, nodes: list[ir.Node], blocks: int | None) -> Constant | str:
    """Return a constant as the nodes that move what is dequantized from it hand it on, or which of them does not."""
    own = constant.params.scheme.granularity
    assert not isinstance(own, PerToken)
    layout = ParameterLayout(constant.shape, own)
    moves: list[Move] = []
    for node in nodes:
        if node.op_type == "Transpose":
            order = tuple(node.attributes.get_ints("perm", tuple(reversed(range(len(layout.shape))))))
            layout.transpose(order)
            moves.append(("transpose", order))
            continue
        shape = node.outputs[0].shape
        if shape is None or not shape.is_static():
            return f"'{node.name}' ({node.op_type}) gives its codes a shape that is not known before the model runs"
        if not layout.reshape(shape.numpy()):
            return f"'{node.name}' ({node.op_type}) mixes codes of different scales along one axis"
        moves.append(("reshape", tuple(shape.numpy())))
    rank = len(layout.shape)
    granularity = layout.granularity(0 if blocks is None else blocks % rank)
    if isinstance(granularity, PerBlock) and blocks is None:
        return f"'{nodes[-1].name}' ({nodes[-1].op_type}) moves codes in blocks"
    params = QuantParams(
        scheme=replace_fields(constant.params.scheme, granularity=granularity),
        scale=layout.params(constant.params.scale, granularity),
        zero_point=layout.params(constant.params.zero_point, granularity),
    )
    return replace_fields(constant, params=params, moves=tuple(moves))
