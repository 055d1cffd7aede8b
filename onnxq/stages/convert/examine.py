"""What can be written of a model that was imported quantized: nodes as candidates of a plan, or why they are none."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxq.graph.constants import constant_tensor
from onnxq.graph.names import name_of
from onnxq.graph.node_marks import marked_accuracy
from onnxq.graph.walk import nodes
from onnxq.ops import OpFact, facts, op_key
from onnxq.ops.quantized import QUANTIZED_OPERATORS
from onnxq.passes.read.constants import Constant
from onnxq.passes.read.qdq import Imported, ImportedGroup
from onnxq.stages.plan.entries import Candidate, FloatNode
from onnxq.stages.plan.kernel_choice import choose
from onnxq.stages.plan.rules import NodeRequest
from onnxq.targets import Output, Row, Target
from onnxq.targets.faults import WriteRequest, avoid
from onnxq.types.accuracy import ROUNDS
from onnxq.types.format import Format
from onnxq.types.plan import ALREADY, Reason
from onnxq.types.recipe import Recipe
from onnxq.types.scheme import QuantParams, QuantType

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True, slots=True)
class ExaminedImports:
    """Every node of a model with imported nodes.

    Attributes:
        entries: in graph order; candidates are the imported nodes that can be written in the format asked for.
        refused: path names of imported nodes for which there is no such form, and why.
        in_form: those of them that are in the format already, in the one form that it has for them.
    """

    entries: tuple[Candidate | FloatNode, ...]
    refused: dict[str, str]
    in_form: frozenset[str]


def examine_imported(model: ir.Model, imported: Imported, recipe: Recipe, target: Target) -> ExaminedImports:
    """Return what can be written in a format.

    Args:
        model: with imported nodes as float ones.
        imported: their codes and parameters.
        recipe: names the format to write.
        target: what will run it.
    """
    examiner = _Examiner(imported, recipe, target, model.opset_imports.get("", 1))
    entries: list[Candidate | FloatNode] = []
    refused: dict[str, str] = {}
    for name, node in nodes(model):
        entry: Candidate | str = "stays unchanged"
        if name in imported.groups:
            entry = examiner.candidate(name, node, imported.groups[name])
            if isinstance(entry, str):
                refused[name] = entry
        if isinstance(entry, str):
            entries.append(FloatNode(name=name, node=node, op=op_key(node), reason=Reason(code=ALREADY, text=entry)))
        else:
            entries.append(entry)
    return ExaminedImports(entries=tuple(entries), refused=refused, in_form=frozenset(examiner.in_form))


def around_faults(usual: WriteRequest, present: Collection[str]) -> WriteRequest | str:
    """Return how an imported node is written around faults of a runtime, or why its codes cannot be.

    Args:
        usual: what would be written.
        present: names of the faults that the runtime has.
    """
    written = avoid(usual, present)
    if isinstance(written, str) or (written.weights, written.accuracy_level) == (usual.weights, usual.accuracy_level):
        return written
    return f"its codes would have to change: {'; '.join(written.notes)}"


class _Examiner:
    def __init__(self, imported: Imported, recipe: Recipe, target: Target, opset: int) -> None:
        self.in_form: set[str] = set()
        self._imported = imported
        self._opset = opset
        self._format = recipe.format
        self._target = target
        self._portable = recipe.portable
        self._accuracy = recipe.accuracy_level

    def candidate(self, name: str, node: ir.Node, group: ImportedGroup) -> Candidate | str:
        """Return an imported node as it can be written, or why it cannot."""
        op, fact = op_key(node), facts.get(op_key(node))
        request = self._wish(node, group, fact)
        if isinstance(request, str):
            return request
        row = self._row(name, node, group, request)
        if isinstance(row, str):
            return row
        weights = tuple(slot for slot in group.constants if slot == fact.weight)
        level = marked_accuracy(node) if self._accuracy is None else self._accuracy
        usual = WriteRequest(
            node=node,
            opset=self._opset,
            row=row or Row(op=op, kernel=node.op_type, activations=frozenset()),
            activations=request.activations,
            weights=request.weights,
            slots=weights,
            portable=self._portable,
            accuracy_level=ROUNDS if level is None else level,  # 0 is a level too: the runtime's choice
            lowest_code=self._constant(node, weights[0]).lowest if weights else None,
        )
        written = usual if row is None else around_faults(usual, self._target.faults)
        if isinstance(written, str):
            return written
        bias = self._bias(node, group, row)
        if isinstance(bias, str):
            return bias
        return Candidate(
            name=name,
            node=node,
            op=op,
            fact=fact,
            row=usual.row,
            request=request,
            activations=group.activations,
            constants=tuple(slot for slot in group.constants if slot not in (fact.weight, fact.bias)),
            weights=weights,
            bias=bias,
            written=written,
            quantized_output=group.output,
        )

    def _wish(self, node: ir.Node, group: ImportedGroup, fact: OpFact) -> NodeRequest | str:
        """Return the format asked for with the schemes that a node was imported with, or why it has none."""
        op = op_key(node)
        if self._format is not Format.QDQ and not self._rows(op):
            return f"{node.op_type} has no kernel in format {self._format}"
        defaults = self._target.defaults_for(op).get(self._format)
        if defaults is None:
            return f"target {self._target.name} runs nothing in format {self._format}"
        running = [self._params(node.inputs[slot]).scheme for slot in group.activations]
        weights = [self._constant(node, slot).params.scheme for slot in group.constants if slot == fact.weight]
        return NodeRequest(
            keep=None,
            rule=None,
            format=self._format,
            portable=self._portable,
            activations=running[0] if running else defaults.activations,
            weights=weights[0] if weights else defaults.weights,
            method="rtn",
        )

    def _rows(self, op: str) -> tuple[Row, ...]:
        """Return the target's rows for an operator in the form asked for."""
        rows = self._target.rows_for(op, self._format, portable=self._portable)
        if self._format is Format.WEIGHT_ONLY:
            rows = tuple(row for row in rows if row.contrib is not self._portable)
        return rows

    def _row(self, name: str, node: ir.Node, group: ImportedGroup, request: NodeRequest) -> Row | str | None:
        """Return the target's row for a node, None where Q and DQ do without, or why there is none."""
        weighted = facts.get(op_key(node)).weight in group.constants
        row = choose(self._rows(op_key(node)), node, request, weighted=weighted, refuses=lambda row: None)
        if isinstance(row, Row):
            return row if self._format is Format.QDQ else self._mismatch(node, group, row) or row
        if self._format is Format.QDQ:
            return None
        others = self._target.rows_for(op_key(node), self._format, portable=True)
        other = choose(others, node, request, weighted=weighted, refuses=lambda row: None)
        if self._format is Format.WEIGHT_ONLY and isinstance(other, Row) and not self._is_moved(node, group):
            self.in_form.add(name)
        return row[1]

    def _is_moved(self, node: ir.Node, group: ImportedGroup) -> bool:
        """Return whether codes go through other nodes before this one reads them."""
        return any(self._constant(node, slot).moves for slot in group.constants)

    def _mismatch(self, node: ir.Node, group: ImportedGroup, row: Row) -> str | None:
        """Return what an integer operator does not take of an imported node, None if it takes everything."""
        if self._format is Format.WEIGHT_ONLY:
            return None
        fact = facts.get(op_key(node))
        if not group.output and row.output is Output.REQUIRED:
            return "its output is not quantized"
        slots = (*group.activations, *(slot for slot in group.constants if slot not in (fact.weight, fact.bias)))
        params = [self._params(node.inputs[slot]) for slot in slots]
        if any(each.scheme.dtype is not params[0].scheme.dtype or each.scale.ndim for each in params):
            return "its inputs came in several types"
        ends = [self._params(value) for value in node.outputs] if group.output and group.clamp is None else []
        if any(each.scheme.dtype is not params[0].scheme.dtype for each in ends):
            return "its output came in another type"
        if row.kernel == node.op_type and any(
            (end.scale != params[0].scale).any() or (end.zero_point != params[0].zero_point).any() for end in ends
        ):
            return "it moves codes, and its output came with other parameters than its input"
        kernel = QUANTIZED_OPERATORS.get(row.kernel)
        if kernel is not None and kernel.lacking(node) is not None:
            return "its kernel lacks one of its attributes"
        return None

    def _bias(self, node: ir.Node, group: ImportedGroup, row: Row | None) -> int | str | None:
        """Return the slot of a quantized bias, None where it is absent or stays in float, or why neither will do."""
        fact = facts.get(op_key(node))
        slot, weight = fact.bias, fact.weight
        value = node.inputs[slot] if slot is not None and slot < len(node.inputs) else None
        if slot is None or weight is None or value is None or not group.activations:
            return None
        if slot not in group.constants and (self._format is Format.QDQ or (row is not None and row.float_bias)):
            return None
        if constant_tensor(value) is None or weight not in group.constants:
            return "its bias is computed"
        if slot in group.constants and not self._follows(node, slot, (group.activations[0], weight)):
            return "its bias came with another scale than the product of its activation's and its weight's"
        return slot

    def _follows(self, node: ir.Node, bias: int, factors: tuple[int, int]) -> bool:
        """Return whether a bias has the scale that kernels take it to have: the product of those of two inputs."""
        import numpy as np

        params = self._params(node.inputs[bias])
        first, second = (self._params(node.inputs[slot]).scale.astype(np.float64) for slot in factors)
        return params.scheme.dtype is QuantType.INT32 and np.allclose(params.scale, first * second, rtol=1e-5, atol=0)

    def _constant(self, node: ir.Node, slot: int) -> Constant:
        return self._imported.constants[name_of(node.inputs[slot])]

    def _params(self, value: ir.Value | None) -> QuantParams:
        name = name_of(value)
        constant = self._imported.constants.get(name)
        return self._imported.activations[name] if constant is None else constant.params
