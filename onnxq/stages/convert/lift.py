"""Groups of DequantizeLinear, operator and QuantizeLinear written as float operators, their parameters taken note of.

    x -> Q -> DQ -> Conv <- DQ <- codes      becomes      x -> Conv <- float constant
                     |                                          |
              y <- DQ <- Q                                      y

What is noted: of x and y scale and zero point, of the constant its codes too. Values whose Q is read by something else,
and groups that the caller refuses, stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnxq.graph.constants import constant_array, constant_tensor
from onnxq.graph.walk import bodies, nodes
from onnxq.numerics.affine import dequantize, quantize
from onnxq.ops import OpFact, clamp_bounds, facts, op_key
from onnxq.stages.convert.expand import filled, plain
from onnxq.stages.convert.writer import Writer, replace
from onnxq.types.scheme import PerBlock, PerChannel, PerTensor, QuantParams, QuantType, Scheme

if TYPE_CHECKING:
    import onnx_ir as ir

_DEQUANTIZE = ("DequantizeLinear", "com.microsoft::DequantizeLinear")
_QUANTIZE = ("QuantizeLinear", "com.microsoft::QuantizeLinear")
_INTEGERS = frozenset(kind.value for kind in QuantType if not kind.is_float)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Constant:
    """A constant that came on codes: its name and graph, the tensor that holds the codes, and their parameters.

    A float tensor is one that came behind a Q; its codes are what that makes of it. `order`: how its axes are turned
    before it is read, None for not at all; the parameters are those of the turned one.
    """

    name: str
    graph: ir.Graph
    tensor: ir.TensorProtocol
    params: QuantParams
    order: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the codes."""
        shape = self.tensor.shape.numpy()
        return tuple(shape) if self.order is None else tuple(shape[axis] for axis in self.order)

    def codes(self) -> npt.NDArray[np.int32]:
        """Return the codes, of the constant's shape."""
        array = self.tensor.numpy()
        if self.order is not None:
            array = np.ascontiguousarray(array.transpose(self.order))
        if array.dtype == np.float32:
            return np.asarray(quantize(array, self.params))
        return array.astype(np.int32)

    def values(self) -> npt.NDArray[np.float32]:
        """Return what the codes stand for."""
        return dequantize(self.codes(), self.params)


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A node that came quantized.

    Attributes:
        activations: slots of values that were quantized. constants: slots of constants that were, the bias among them.
        output: whether its output is quantized right behind it. clamp: path name of the clamp in between, None if none.
    """

    activations: tuple[int, ...]
    constants: tuple[int, ...]
    output: bool
    clamp: str | None = None


@dataclass(kw_only=True, slots=True)
class Imported:
    """What a model came with.

    Attributes:
        groups: by path name of the node. activations: by name of the float value. constants: by name of the float
            constant.
    """

    groups: dict[str, Group] = field(default_factory=dict)
    activations: dict[str, QuantParams] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Pair:
    """A value that is quantized and dequantized: its QuantizeLinear, the DequantizeLinear nodes, the parameters."""

    value: ir.Value
    quantize: ir.Node
    dequantize: tuple[ir.Node, ...]
    params: QuantParams


def lift(model: ir.Model, wanted: Callable[[str, ir.Node], bool], *, weights_only: bool = False) -> Imported:
    """Lift the groups of a prepared model, in place.

    Args:
        model: the model. wanted: tells whether a node, by path name, is to be lifted where it is quantized.
        weights_only: lift nodes whose weight alone is quantized, in blocks, and no others.
    """
    found = Imported()
    writer = Writer(model)
    names = {node: name for name, node in nodes(model)}
    constants: dict[object, ir.Value] = {}
    for graph in bodies(model):
        _Lifting(graph, writer, names, found, constants, weights_only=weights_only).carry_out(wanted)
    return found


def holds_dequantized(model: ir.Model) -> bool:
    """Tell whether there may be something to lift."""
    return any(op_key(node) in _DEQUANTIZE for graph in bodies(model) for node in graph)


class _Lifting:
    """Lifts the groups of one graph."""

    def __init__(
        self,
        graph: ir.Graph,
        writer: Writer,
        names: dict[ir.Node, str],
        found: Imported,
        constants: dict[object, ir.Value],
        *,
        weights_only: bool,
    ) -> None:
        self._graph = graph
        self._writer = writer
        self._names = names
        self._found = found
        self._weights_only = weights_only
        self._pairs: dict[ir.Value, _Pair] = {}
        self._behind: dict[ir.Value, _Pair] = {}
        self._constants = constants
        for node in () if weights_only else graph:
            pair = _pair(node)
            if pair is not None and pair.value not in self._pairs:
                self._pairs[pair.value] = pair
                self._behind |= {each.outputs[0]: pair for each in pair.dequantize}

    def carry_out(self, wanted: Callable[[str, ir.Node], bool]) -> None:
        for node in list(self._graph):
            name = self._names.get(node, "")
            group = self._group(node) if name and wanted(name, node) else None
            if group is not None:
                self._lift(name, node, group)
        self._clean()

    def _group(self, node: ir.Node) -> Group | None:
        """Return how a node is quantized, None if it is not, or not altogether."""
        key = op_key(node)
        fact = facts.get(key) if key in facts else None
        if fact is None or fact.clamp is not None:
            return None
        constants = tuple(slot for slot in _computed_with(node, fact) if _constant(node.inputs[slot]) is not None)
        if self._weights_only:
            return self._weight_group(node, fact, constants)
        running = tuple(slot for slot in fact.activation_slots(node) if slot not in constants)
        running = tuple(slot for slot in running if slot != fact.weight or fact.bias is None)
        if not running or any(not self._is_known(node.inputs[slot]) for slot in running):
            return None
        weight = fact.weight
        if weight is not None and fact.bias is not None and weight not in constants:
            return None  # a convolution with a weight that is no constant on codes
        outputs = fact.output_slots(node)
        if len(outputs) != len(node.outputs) or len({self._emits(node.outputs[slot]) for slot in outputs}) > 1:
            return None
        value = node.outputs[0]
        if self._emits(value):
            return Group(activations=running, constants=constants, output=True)
        users = [use.node for use in value.uses()]
        if len(users) == 1 and not value.is_graph_output() and clamp_bounds(users[0]) is not None:
            (clamp,) = users
            if clamp.graph is self._graph and self._emits(clamp.outputs[0]):
                return Group(activations=running, constants=constants, output=True, clamp=self._names[clamp])
        return Group(activations=running, constants=constants, output=False)

    def _weight_group(self, node: ir.Node, fact: OpFact, constants: tuple[int, ...]) -> Group | None:
        """Return the group of a product with a weight in blocks, or of rows looked up in such a table."""
        if fact.weight is None or (fact.macs is None and not fact.rearranges) or fact.weight not in constants:
            return None
        held = _constant(node.inputs[fact.weight])
        if held is None or not isinstance(held.params.scheme.granularity, PerBlock):
            return None
        return Group(activations=(), constants=(fact.weight,), output=False)

    def _is_known(self, value: ir.Value | None) -> bool:
        """Tell whether a value was quantized, and with the parameters that other scopes quantize it with."""
        pair = self._behind.get(value)  # type: ignore[arg-type]
        return pair is not None and self._found.activations.get(pair.value.name or "", pair.params) == pair.params

    def _emits(self, value: ir.Value) -> bool:
        """Tell whether a value is quantized right behind its node, for all its readers."""
        pair = self._pairs.get(value)
        return (
            pair is not None and not value.is_graph_output() and all(use.node is pair.quantize for use in value.uses())
        )

    def _lift(self, name: str, node: ir.Node, group: Group) -> None:
        for slot in group.activations:
            pair = self._behind[node.inputs[slot]]  # type: ignore[index]
            node.replace_input_with(slot, pair.value)
            self._found.activations[pair.value.name or ""] = pair.params
        for slot in group.constants:
            node.replace_input_with(slot, self._float_constant(node.inputs[slot]))
        if group.output:
            end = node if group.clamp is None else next(iter(node.outputs[0].uses())).node
            for value in end.outputs:
                pair = self._pairs[value]
                self._found.activations[value.name or ""] = pair.params
                self._behind[value] = pair
                for each in pair.dequantize:
                    before = value.name
                    replace(each.outputs[0], value)
                    if value.name != before:  # a graph's output
                        self._found.activations[value.name or ""] = self._found.activations.pop(before or "")
        self._found.groups[name] = group

    def _float_constant(self, value: ir.Value | None) -> ir.Value:
        """Return the float constant for one on codes; it is computed when it is asked for."""
        import onnx_ir as ir

        held = _constant(value)
        assert held is not None
        params = held.params
        place = (held.name, held.order, params.scheme, params.scale.tobytes(), params.zero_point.tobytes())
        if place not in self._constants:
            stands_for = ir.LazyTensor(
                lambda: ir.tensor(held.values()), dtype=ir.DataType.FLOAT, shape=ir.Shape(held.shape)
            )
            made = self._writer.constant(held.graph, plain(held.name), stands_for)
            self._found.constants[made.name or ""] = held
            self._constants[place] = made
        return self._constants[place]

    def _clean(self) -> None:
        """Take out the pairs and DequantizeLinear nodes that nothing reads any more."""
        for node in reversed(list(self._graph)):
            if op_key(node) not in (*_QUANTIZE, *_DEQUANTIZE, "Transpose"):
                continue
            if not any(value.uses() or value.is_graph_output() for value in node.outputs):
                self._graph.remove(node, safe=True)


def _computed_with(node: ir.Node, fact: OpFact) -> Iterator[int]:
    """Yield the slots that hold numbers to compute with."""
    slots = {*fact.activation_slots(node), *(slot for slot in (fact.weight, fact.bias) if slot is not None)}
    return (slot for slot in sorted(slots) if filled(node, slot) is not None)


def _pair(node: ir.Node) -> _Pair | None:
    """Return what a QuantizeLinear of a value belongs to, None where its codes are read by others than its DQ."""
    if op_key(node) not in _QUANTIZE or node.inputs[0] is None or constant_tensor(node.inputs[0]) is not None:
        return None
    params = _params(node, node.inputs[0])
    codes, value = node.outputs[0], node.inputs[0]
    if params is None or codes.is_graph_output() or not isinstance(params.scheme.granularity, PerTensor):
        return None
    if not params.scale > 0:
        return None
    readers = tuple(dict.fromkeys(use.node for use in codes.uses()))
    if not readers or any(reader.graph is not node.graph for reader in readers):
        return None
    if any(op_key(reader) not in _DEQUANTIZE or _params(reader, codes) != params for reader in readers):
        return None
    return _Pair(value=value, quantize=node, dequantize=readers, params=params)


def _constant(value: ir.Value | None) -> Constant | None:
    """Return the constant on codes that a value is dequantized from, None if it is none."""
    node = None if value is None else value.producer()
    if node is not None and op_key(node) == "Transpose":
        return _turned(node, _constant(node.inputs[0]))
    if node is None or op_key(node) not in _DEQUANTIZE or node.inputs[0] is None:
        return None
    codes = node.inputs[0]
    params = _params(node, codes)
    if params is None:
        return None
    stored = constant_tensor(codes)
    if stored is not None and codes.graph is not None:
        return Constant(name=codes.name or "", graph=codes.graph, tensor=stored, params=params)
    quantize_node = codes.producer()  # as training writes it: a float weight behind a pair
    if quantize_node is None or op_key(quantize_node) not in _QUANTIZE:
        return None
    source = quantize_node.inputs[0]
    tensor = constant_tensor(source)
    if source is None or tensor is None or tensor.dtype.name != "FLOAT" or _params(quantize_node, source) != params:
        return None
    if source.graph is None or not (params.scale > 0).all():
        return None
    return Constant(name=source.name or "", graph=source.graph, tensor=tensor, params=params)


def _turned(node: ir.Node, held: Constant | None) -> Constant | None:
    """Return a constant as a Transpose of what is dequantized from it hands it on."""
    if held is None or isinstance(held.params.scheme.granularity, PerBlock):
        return None
    order = tuple(node.attributes.get_ints("perm", tuple(reversed(range(len(held.shape))))))
    params, granularity = held.params, held.params.scheme.granularity
    if isinstance(granularity, PerChannel) and granularity.axis is not None:
        moved = PerChannel(axis=order.index(granularity.axis))
        params = replace_fields(params, scheme=replace_fields(params.scheme, granularity=moved))
    before = held.order or tuple(range(len(order)))
    return replace_fields(held, params=params, order=tuple(before[axis] for axis in order))


def _params(node: ir.Node, value: ir.Value) -> QuantParams | None:
    """Return the parameters of a QuantizeLinear or DequantizeLinear of `value`; None where they are not of our kind."""
    scale, zero_point = constant_array(filled(node, 1)), filled(node, 2)
    zeros = constant_array(zero_point)
    if scale is None or scale.dtype != np.float32 or (zero_point is not None and zeros is None):
        return None
    kind = node.inputs[0].dtype if op_key(node) in _DEQUANTIZE else node.outputs[0].dtype  # type: ignore[union-attr]
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
    """Return which elements share a scale, None where that cannot be told."""
    if not shape or shape == (1,):
        return PerTensor()
    axis = node.attributes.get_int("axis", 1)
    if rank is None or not -rank <= axis < rank:
        return None
    block = node.attributes.get_int("block_size", 0)
    if block:
        return PerBlock(size=block, axis=axis % rank) if len(shape) == rank else None
    return PerChannel(axis=axis % rank) if len(shape) == 1 else None
