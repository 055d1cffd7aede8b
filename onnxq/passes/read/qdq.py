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

import onnx_ir as ir

from onnxq.graph.constants import constant_tensor, moved_tensor
from onnxq.graph.linear import DEQUANTIZE, QUANTIZE
from onnxq.graph.walk import bodies, input_at, nodes
from onnxq.graph.writer import Writer, replace
from onnxq.ops import OpFact, clamp_bounds, facts, op_key
from onnxq.passes.read.constants import MOVES, Constant, imported_constant, params_of
from onnxq.passes.read.qoperator import plain
from onnxq.types.scheme import PerTensor, QuantParams


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedGroup:
    """An imported quantized node.

    Attributes:
        activations: slots of values that were quantized.
        constants: slots of constants that were, the bias among them.
        output: whether its output is quantized right behind it.
        clamp: path name of the clamp in between, None if none.
    """

    activations: tuple[int, ...]
    constants: tuple[int, ...]
    output: bool
    clamp: str | None = None


@dataclass(kw_only=True, slots=True)
class Imported:
    """What was imported with a model.

    Attributes:
        groups: by path name of the node.
        activations: by name of the float value.
        constants: by name of the float constant.
        left: by path name of a node whose weight is quantized, why it is in no group.
    """

    groups: dict[str, ImportedGroup] = field(default_factory=dict)
    activations: dict[str, QuantParams] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _QdqPair:
    """A value that is quantized and dequantized: its QuantizeLinear, the DequantizeLinear nodes, the parameters."""

    value: ir.Value
    quantize: ir.Node
    dequantize: tuple[ir.Node, ...]
    params: QuantParams


def lift(model: ir.Model, wanted: Callable[[str, ir.Node], bool], *, weights_only: bool = False) -> Imported:
    """Lift the groups of a prepared model, in place.

    Args:
        model: the model.
        wanted: returns whether a node, by path name, is to be lifted where it is quantized.
        weights_only: lift nodes whose weight alone is quantized, in blocks, and no others.
    """
    imported = Imported()
    writer = Writer(model)
    names = {node: name for name, node in nodes(model)}
    constants: dict[object, ir.Value] = {}
    for graph in bodies(model):
        _Lifting(graph, writer, names, imported, constants, weights_only=weights_only).carry_out(wanted)
    return imported


def holds_dequantized(model: ir.Model) -> bool:
    """Return whether there may be something to lift."""
    return any(op_key(node) in DEQUANTIZE for graph in bodies(model) for node in graph)


def holds_rounded_constants(model: ir.Model) -> bool:
    """Return whether a constant is stored in float and quantized as the model runs, as training writes it."""
    return any(
        op_key(node) in QUANTIZE and moved_tensor(node.inputs[0]) is not None
        for graph in bodies(model)
        for node in graph
    )


class _Lifting:
    """Lifts the groups of one graph."""

    def __init__(
        self,
        graph: ir.Graph,
        writer: Writer,
        names: dict[ir.Node, str],
        imported: Imported,
        constants: dict[object, ir.Value],
        *,
        weights_only: bool,
    ) -> None:
        self._graph = graph
        self._writer = writer
        self._names = names
        self._imported = imported
        self._weights_only = weights_only
        self._pairs: dict[ir.Value, _QdqPair] = {}
        self._behind: dict[ir.Value, _QdqPair] = {}
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
            if isinstance(group, str):
                self._imported.left[name] = group
            elif group is not None:
                self._lift(name, node, group)
        self._clean()

    def _group(self, node: ir.Node) -> ImportedGroup | str | None:
        """Return how a node is quantized, why that is unknown though it is, None if it is not, or not altogether."""
        key = op_key(node)
        fact = facts.get(key) if key in facts else None
        if fact is None or fact.clamp is not None:
            return None
        if self._weights_only:
            return self._weight_group(node, fact)
        slots = _computed_with(node, fact)
        constants = tuple(slot for slot in slots if isinstance(self._constant(node, slot), Constant))
        running = tuple(slot for slot in fact.activation_slots(node) if slot not in constants)
        running = tuple(slot for slot in running if slot != fact.weight or fact.bias is None)
        if not running or any(not self._is_known(node.inputs[slot]) for slot in running):
            return None
        weight = fact.weight
        if weight is not None and fact.bias is not None and weight not in constants:
            return None  # a convolution with a weight that is not a quantized constant
        outputs = fact.output_slots(node)
        if len(outputs) != len(node.outputs) or len({self._emits(node.outputs[slot]) for slot in outputs}) > 1:
            return None
        value = node.outputs[0]
        if self._emits(value):
            return ImportedGroup(activations=running, constants=constants, output=True)
        users = [use.node for use in value.uses()]
        if len(users) == 1 and not value.is_graph_output() and clamp_bounds(users[0]) is not None:
            (clamp,) = users
            if clamp.graph is self._graph and self._emits(clamp.outputs[0]):
                return ImportedGroup(activations=running, constants=constants, output=True, clamp=self._names[clamp])
        return ImportedGroup(activations=running, constants=constants, output=False)

    def _weight_group(self, node: ir.Node, fact: OpFact) -> ImportedGroup | str | None:
        """Return the group of a product with a quantized weight, or of rows looked up in such a table."""
        if fact.weight is None or (fact.macs is None and not fact.rearranges) or input_at(node, fact.weight) is None:
            return None
        others = [
            value.producer() for slot, value in enumerate(node.inputs) if value is not None and slot != fact.weight
        ]
        readers = [use.node for value in node.outputs for use in value.uses()]
        if any(each is not None and op_key(each) in DEQUANTIZE and not _unpacks(each) for each in others) or any(
            op_key(reader) in QUANTIZE and constant_tensor(input_at(reader, 1)) is not None for reader in readers
        ):
            return None  # calibrated; a scale that is computed is of a reader that quantizes at run time
        constant = self._constant(node, fact.weight)
        if isinstance(constant, Constant):
            return ImportedGroup(activations=(), constants=(fact.weight,), output=False)
        return constant

    def _constant(self, node: ir.Node, slot: int) -> Constant | str | None:
        """Return the quantized constant that a node reads; see `imported_constant`."""
        fact, value, blocks = facts.get(op_key(node)), node.inputs[slot], None
        weight = self._weights_only and slot == fact.weight and fact.reduction_axis is not None
        if weight and value is not None and value.shape is not None and fact.reduction_axis is not None:
            blocks = fact.reduction_axis(node, len(value.shape))
        return imported_constant(value, blocks)

    def _is_known(self, value: ir.Value | None) -> bool:
        """Return whether a value was quantized, and with the parameters that other scopes quantize it with."""
        pair = self._behind.get(value)  # type: ignore[arg-type]
        return pair is not None and self._imported.activations.get(pair.value.name or "", pair.params) == pair.params

    def _emits(self, value: ir.Value) -> bool:
        """Return whether a value is quantized right behind its node, for all its readers."""
        pair = self._pairs.get(value)
        return (
            pair is not None and not value.is_graph_output() and all(use.node is pair.quantize for use in value.uses())
        )

    def _lift(self, name: str, node: ir.Node, group: ImportedGroup) -> None:
        for slot in group.activations:
            pair = self._behind[node.inputs[slot]]  # type: ignore[index]
            node.replace_input_with(slot, pair.value)
            self._imported.activations[pair.value.name or ""] = pair.params
        for slot in group.constants:
            constant = self._constant(node, slot)
            assert isinstance(constant, Constant)
            node.replace_input_with(slot, self._float_constant(constant))
        if group.output:
            end = node if group.clamp is None else next(iter(node.outputs[0].uses())).node
            for value in end.outputs:
                pair = self._pairs[value]
                self._imported.activations[value.name or ""] = pair.params
                self._behind[value] = pair
                for each in pair.dequantize:
                    before = value.name
                    replace(each.outputs[0], value)
                    if value.name != before:  # a graph's output
                        self._imported.activations[value.name or ""] = self._imported.activations.pop(before or "")
        self._imported.groups[name] = group

    def _float_constant(self, constant: Constant) -> ir.Value:
        """Return the float constant for a quantized one; it is computed when its data is read."""
        params = constant.params
        place = (constant.name, constant.moves, params.scheme, params.scale.tobytes(), params.zero_point.tobytes())
        if place not in self._constants:
            values = ir.LazyTensor(
                lambda: ir.tensor(constant.values()), dtype=ir.DataType.FLOAT, shape=ir.Shape(constant.shape)
            )
            value = self._writer.constant(constant.graph, plain(constant.name), values)
            self._imported.constants[value.name or ""] = constant
            self._constants[place] = value
        return self._constants[place]

    def _clean(self) -> None:
        """Take out the pairs and DequantizeLinear nodes that nothing reads any more."""
        for node in reversed(list(self._graph)):
            if op_key(node) not in (*QUANTIZE, *DEQUANTIZE, *MOVES):
                continue
            if not any(value.uses() or value.is_graph_output() for value in node.outputs):
                self._graph.remove(node, safe=True)


def _computed_with(node: ir.Node, fact: OpFact) -> Iterator[int]:
    """Yield the slots that hold numbers to compute with."""
    slots = {*fact.activation_slots(node), *(slot for slot in (fact.weight, fact.bias) if slot is not None)}
    return (slot for slot in sorted(slots) if input_at(node, slot) is not None)


def _pair(node: ir.Node) -> _QdqPair | None:
    """Return what a QuantizeLinear of a value belongs to, None where its codes are read by others than its DQ."""
    if op_key(node) not in QUANTIZE or node.inputs[0] is None or constant_tensor(node.inputs[0]) is not None:
        return None
    params = params_of(node, node.inputs[0])
    codes, value = node.outputs[0], node.inputs[0]
    if params is None or codes.is_graph_output() or not isinstance(params.scheme.granularity, PerTensor):
        return None
    if not params.scale > 0:
        return None
    readers = tuple(dict.fromkeys(use.node for use in codes.uses()))
    if not readers or any(reader.graph is not node.graph for reader in readers):
        return None
    if any(op_key(reader) not in DEQUANTIZE or params_of(reader, codes) != params for reader in readers):
        return None
    return _QdqPair(value=value, quantize=node, dequantize=readers, params=params)


def _unpacks(node: ir.Node) -> bool:
    """Return whether a DequantizeLinear unpacks a constant."""
    return isinstance(imported_constant(node.outputs[0]), Constant)
