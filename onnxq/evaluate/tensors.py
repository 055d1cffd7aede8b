"""Which node loses most: every quantized node's output against the float model's tensor of the same name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnxq.data.source import Source
from onnxq.evaluate.comparison import TensorPair, compare_tensors
from onnxq.graph.hoist import why_hidden
from onnxq.graph.walk import bodies, nodes
from onnxq.progress import Progress
from onnxq.types.format import Format
from onnxq.types.plan import Action, Plan
from onnxq.types.report import TensorError

if TYPE_CHECKING:
    import onnx_ir as ir


def tensor_errors(
    reference: ir.Model,
    quantized: ir.Model,
    source: Source,
    plan: Plan,
    *,
    threads: int,
    progress: Progress,
) -> tuple[TensorError, ...]:
    """Return the SQNR of each output of each quantized node, optimizer off, in plan order.

    Where a node's output is quantized, its dequantized value counts. Tensors that the reference has no counterpart of,
    those of scopes that they cannot be brought out of, and those that were never computed, or not as often and in the
    same shapes by both models, are left out.

    Args:
        reference: float model with the plan's tensor names.
        quantized: what was made of it.
        source: the few samples to run.
        plan: names the nodes.
        threads: intra-op threads.
        progress: reports each group of tensors.
    """
    pairs = list(_pairs(reference, quantized, plan))
    return tuple(
        TensorError(node=entry.pair.node, tensor=entry.pair.tensor, sqnr=entry.errors[0].sqnr_db)
        for entry in compare_tensors(reference, [(quantized, False)], pairs, source, threads=threads, progress=progress)
        # Where the shapes differ, rounding led the quantized model into another branch.
        if entry.kind and entry.alike
    )


def _pairs(reference: ir.Model, quantized: ir.Model, plan: Plan) -> Iterator[TensorPair]:
    known, written = _visible(reference), _visible(quantized)
    find = _Makers(reference, quantized)
    for decision in plan.decisions:
        if decision.format is Format.DYNAMIC:
            # Several nodes replace one, and the last of them makes its output under the old name.
            for output in sorted(find.outputs(decision.node) & written):
                yield TensorPair(node=decision.node, tensor=output, counterpart=output)
            continue
        node = find(decision.node)
        if decision.action is not Action.QUANTIZE or node is None:
            continue
        for slot, value in enumerate(node.outputs):
            key = decision.outputs.get(slot)
            tensor = None if key is None else plan.tensors[key]
            name = value.name if tensor is None else tensor.tensor
            params = None
            stand_in: ir.Value | None = value
            if tensor is not None and is_float(value):
                stand_in = dequantized(value)
            elif tensor is not None:
                params = tensor.params
            elif not is_float(value):
                continue  # codes of a clamp behind this node, which has a decision of its own
            if name in known and stand_in is not None and stand_in.name in written:
                yield TensorPair(node=decision.node, tensor=name or "", counterpart=stand_in.name or "", params=params)


def _visible(model: ir.Model) -> set[str]:
    """Return the names of the values that nodes make, except for those that cannot be tapped where they are."""
    hidden = why_hidden(model)
    visible = (value for graph in bodies(model) if graph not in hidden for node in graph for value in node.outputs)
    return {value.name for value in visible if value.name}


class _Makers:
    """Finds the node of the quantized model that does the work of a float node."""

    def __init__(self, reference: ir.Model, quantized: ir.Model) -> None:
        self._reference = dict(nodes(reference))
        self._paths = {node: path for path, node in self._reference.items()}
        self._quantized = dict(nodes(quantized))

    def __call__(self, path: str) -> ir.Node | None:
        """Return the node itself, or where integer operators left a clamp out, the one whose codes do its work."""
        if path in self._quantized or path not in self._reference:
            return self._quantized.get(path)
        source = self._reference[path].inputs[0]
        producer = None if source is None else source.producer()
        return None if producer is None else self._quantized.get(self._paths[producer])

    def outputs(self, path: str) -> set[str]:
        """Return the names of a float node's outputs."""
        node = self._reference.get(path)
        return set() if node is None else {value.name for value in node.outputs if value.name}


def dequantized(value: ir.Value) -> ir.Value | None:
    """Return what value -> QuantizeLinear -> DequantizeLinear comes to, None where no such pair reads it."""
    for use in value.uses():
        if use.node.op_type == "QuantizeLinear" and use.idx == 0:
            for second in use.node.outputs[0].uses():
                if second.node.op_type == "DequantizeLinear":
                    return second.node.outputs[0]
    return None


def is_float(value: ir.Value) -> bool:
    """Return whether a value holds floats, or might: types of inner values are often left out."""
    return value.dtype is None or value.dtype.is_floating_point()
