"""Where a scale can go: upstream of a tensor, into constants, as far as the operators between let it pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxq.graph.walk import input_at
from onnxq.ops import op_key

if TYPE_CHECKING:
    import onnx_ir as ir

Floats = npt.NDArray[np.float64]

_NORMS = {  # slots of gamma and beta; the scale lies along the last axis
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
    "com.microsoft::SkipLayerNormalization": (2, 3),
    "com.microsoft::SkipSimplifiedLayerNormalization": (2,),
}
# f(s x) = s f(x) for s > 0, the same s within each window.
_ELEMENTWISE = frozenset({"Dropout", "Identity", "LeakyRelu", "PRelu", "Relu"})
_WINDOWS = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"})
_SHAPES = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Folded:
    """Constants to multiply, by name, each with a factor that broadcasts to it; and the node that takes the scale."""

    factors: dict[str, Floats]
    into: str


Answer: TypeAlias = Folded | str


def fold(value: ir.Value, factor: Floats, readers: Collection[ir.Node]) -> Answer:
    """Return the constants to scale so that `value` is multiplied by `factor`, or in words why there are none.

    Args:
        value: a tensor of the main graph.
        factor: above 0, of as many axes as `value`; of extent 1 where it is constant.
        readers: the nodes that expect the scaled tensor; nothing else may read it.
    """
    if value.is_graph_output():
        return f"'{value.name}' is an output of the model"
    other = next((node for node in value.consumers() if node not in readers), None)
    if other is not None:
        return f"'{other.name or other.op_type}' reads '{value.name}' too"
    node = value.producer()
    if node is None:
        return f"'{value.name}' is an input of the model"
    if node.graph is not value.graph or value.shape is None or len(value.shape) != factor.ndim:
        return f"the shape of '{value.name}' is not known"
    key = op_key(node)
    if key in _NORMS and value is node.outputs[0]:
        return _into_norm(node, factor, _NORMS[key])
    rule = _RULES.get(key)
    if rule is None:
        return f"no scale passes through {node.op_type} '{node.name}'"
    return rule(node, factor)


def _into_norm(node: ir.Node, factor: Floats, slots: tuple[int, ...]) -> Answer:
    if factor.shape[-1] != factor.size:
        return f"the scale does not lie along the axis that '{node.name}' normalizes"
    return _constants(node, {slot: factor.ravel() for slot in slots if input_at(node, slot) is not None})


def _matmul(node: ir.Node, factor: Floats) -> Answer:
    second: ir.Value | None = node.inputs[1]
    if second is None or second.shape is None:
        return f"the shape of what '{node.name}' multiplies is not known"
    rank = len(second.shape)
    if second.is_initializer():
        if rank != 2 or factor.shape[-1] != factor.size:
            return f"the scale does not lie along the columns of '{second.name}'"
        return _constants(node, {1: factor.reshape(1, -1)})
    extra = factor.ndim - rank
    cut: Floats | None = factor.reshape(factor.shape[extra:]) if extra >= 0 and _ones(factor.shape[:extra]) else None
    if cut is None or cut.ndim < 2 or cut.shape[-2] != 1 or not _fits(cut, second):
        return f"the scale does not pass through the product '{node.name}'"
    return fold(second, cut, [node])


def _gemm(node: ir.Node, factor: Floats) -> Answer:
    if factor.shape[-1] != factor.size:
        return f"the scale does not lie along the columns of '{node.name}'"
    transposed = node.attributes.get_int("transB", 0)
    factors = {1: factor.reshape(-1, 1) if transposed else factor.reshape(1, -1)}
    return _constants(node, factors | ({2: factor.ravel()} if input_at(node, 2) is not None else {}))


def _conv(node: ir.Node, factor: Floats) -> Answer:
    if factor.ndim < 3 or factor.shape[1] != factor.size:
        return f"the scale does not lie along the channels of '{node.name}'"
    if node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) != 1:
        return f"the weight of '{node.name}' is split into groups"
    shape = [1] * factor.ndim
    shape[1 if node.op_type == "ConvTranspose" else 0] = -1
    return _constants(node, {1: factor.reshape(shape)} | ({2: factor.ravel()} if input_at(node, 2) is not None else {}))


def _through(node: ir.Node, factor: Floats) -> Answer:
    return _upstream(node, 0, factor)


def _window(node: ir.Node, factor: Floats) -> Answer:
    if not _ones(factor.shape[2:]):
        return f"the scale changes within the windows of '{node.name}'"
    return _upstream(node, 0, factor)


def _mul(node: ir.Node, factor: Floats) -> Answer:
    """Scale one side of a product: a constant of the channels, or else what computes the other side."""
    constants = [slot for slot in (0, 1) if _is_initializer(node, slot)]
    if node.op_type == "Div":
        constants = []
    for slot in constants:
        if _size(node, slot) == factor.size:
            return _constants(node, {slot: _aligned(node, slot, factor)})
    slots = (0,) if node.op_type == "Div" else tuple(slot for slot in (0, 1) if slot not in constants)
    answer: Answer = f"no side of '{node.name}' takes the scale"
    for slot in slots:
        answer = _upstream(node, slot, factor)
        if isinstance(answer, Folded):
            break
    return answer


def _add(node: ir.Node, factor: Floats) -> Answer:
    slots = [slot for slot in (0, 1) if _is_initializer(node, slot)]
    if len(slots) != 1 or _size(node, slots[0]) != factor.size:
        return f"both sides of the sum '{node.name}' would have to be scaled"
    bias = _constants(node, {slots[0]: _aligned(node, slots[0], factor)})
    if isinstance(bias, str):
        return bias
    answer = _upstream(node, 1 - slots[0], factor)
    return answer if isinstance(answer, str) else Folded(factors=bias.factors | answer.factors, into=answer.into)


def _transpose(node: ir.Node, factor: Floats) -> Answer:
    order = tuple(node.attributes.get_ints("perm", tuple(reversed(range(factor.ndim)))))
    return _upstream(node, 0, factor.transpose(np.argsort(order)))


def _reshape(node: ir.Node, factor: Floats) -> Answer:
    """Follow a reshape: where trailing axes of both shapes hold equally many elements, those are in the same order."""
    source, result = node.inputs[0], node.outputs[0]
    assert result.shape is not None
    if source is None or source.shape is None:
        return f"the shape of what '{node.name}' reads is not known"
    first = next((axis for axis, extent in enumerate(factor.shape) if extent != 1), factor.ndim)
    behind = [extent for extent in result.shape[first:] if isinstance(extent, int)]
    if len(behind) != factor.ndim - first:
        return f"the extents that '{node.name}' returns are not known"
    wanted = math.prod(behind)
    spread = np.broadcast_to(factor.reshape(factor.shape[first:]), behind)
    extents: list[int] = []
    for extent in reversed(source.shape):
        if math.prod(extents) == wanted and (wanted > 1 or extents):
            break
        if not isinstance(extent, int):
            return f"the extents that '{node.name}' reads are not known"
        extents.insert(0, extent)
    if math.prod(extents) != wanted:
        return f"'{node.name}' joins the scaled axis with others"
    reshaped = spread.reshape(extents)
    for axis in range(len(extents)):  # back to extent 1 where it is constant
        first_of_axis = reshaped.take([0], axis=axis)
        reshaped = first_of_axis if (reshaped == first_of_axis).all() else reshaped
    return _upstream(node, 0, reshaped.reshape([1] * (len(source.shape) - len(extents)) + list(reshaped.shape)))


def _upstream(node: ir.Node, slot: int, factor: Floats) -> Answer:
    source = node.inputs[slot]
    if source is None or source.shape is None or len(source.shape) != factor.ndim or not _fits(factor, source):
        return f"'{node.name}' spreads its input over the scaled axis"
    return fold(source, factor, [node])


def _constants(node: ir.Node, factors: dict[int, Floats]) -> Answer:
    scaled = {}
    for slot, factor in factors.items():
        value = node.inputs[slot]
        why = own_constant(value, [node])
        if why is not None or value is None or value.shape is None:
            return why or f"'{node.name}' lacks an input"
        if np.broadcast_shapes(tuple(value.shape.numpy()), factor.shape) != tuple(value.shape.numpy()):
            return f"'{value.name}' is one number for several channels"
        scaled[value.name or ""] = factor
    return Folded(factors=scaled, into=f"{node.op_type} '{node.name}'")


def own_constant(value: ir.Value | None, readers: Collection[ir.Node]) -> str | None:
    """Return in words why a value is not a constant that only some nodes read; None if it is one."""
    if value is None or not value.is_initializer() or value.is_graph_input() or value.const_value is None:
        return f"'{'' if value is None else value.name}' is not a constant"
    other = next((node for node in value.consumers() if node not in readers), None)
    if other is not None or value.is_graph_output():
        return f"'{value.name}' is read by '{'the caller' if other is None else other.name or other.op_type}' too"
    return None


def _fits(factor: Floats, value: ir.Value) -> bool:
    assert value.shape is not None
    return all(extent in (1, dim) for extent, dim in zip(factor.shape, value.shape, strict=True))


def _aligned(node: ir.Node, slot: int, factor: Floats) -> Floats:
    """Return the factor with as many axes as a constant, which broadcasts to the same shape."""
    rank = len(node.inputs[slot].shape)  # type: ignore[union-attr, arg-type]
    leading = factor.ndim - rank
    return factor.reshape(factor.shape[leading:]) if leading > 0 and _ones(factor.shape[:leading]) else factor


def _size(node: ir.Node, slot: int) -> int:
    value = node.inputs[slot]
    tensor = None if value is None else value.const_value
    return 0 if tensor is None else tensor.size


def _is_initializer(node: ir.Node, slot: int) -> bool:
    value = node.inputs[slot]
    return value is not None and value.is_initializer()


def _ones(extents: tuple[int, ...]) -> bool:
    return all(extent == 1 for extent in extents)


_RULES: dict[str, Callable[[ir.Node, Floats], Answer]] = {
    "Add": _add,
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Div": _mul,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Mul": _mul,
    "Transpose": _transpose,
    **dict.fromkeys(_ELEMENTWISE, _through),
    **dict.fromkeys(_WINDOWS, _window),
    **dict.fromkeys(_SHAPES, _reshape),
}
