"""Which node loses most: every quantized node's output against the float model's tensor of the same name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxq.data.source import Source
from onnxq.graph.hoist import why_hidden
from onnxq.graph.walk import bodies, nodes
from onnxq.numerics.affine import dequantize
from onnxq.numerics.metrics import ErrorSums
from onnxq.progress import Progress
from onnxq.runtime.taps import Taps
from onnxq.types.format import Format
from onnxq.types.plan import Action, Plan
from onnxq.types.report import TensorError
from onnxq.types.scheme import QuantParams

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

# All tapped tensors of a run are held at once, in both models; groups of tensors are sized to stay below this.
_MEMORY = 256 << 20
_FIRST_GROUP, _GROWTH = 8, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pair:
    """A tensor of the float model and what stands for it in the quantized one; `params` where those are codes."""

    node: str
    tensor: str
    quantized: str
    params: QuantParams | None

    def dequantized(self, found: np.ndarray) -> np.ndarray:
        return found if self.params is None else dequantize(found, self.params)


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
        reference: float model with the plan's tensor names. quantized: what was made of it.
        source: the few samples to run. plan: names the nodes. threads: intra-op threads. progress: told of each group.
    """
    pairs = list(_pairs(reference, quantized, plan))
    batches = list(source.batches())
    errors, size = [], _FIRST_GROUP
    while pairs:
        group, pairs = pairs[:size], pairs[size:]
        expected = Taps(reference, [pair.tensor for pair in group], optimize=False, threads=threads)
        actual = Taps(quantized, [pair.quantized for pair in group], optimize=False, threads=threads)
        sums = [ErrorSums() for _ in group]
        held, compared, astray = 1, set[str](), set[str]()
        for batch in batches:
            x, y = expected.run(batch.feeds), actual.run(batch.feeds)
            for pair, entry in zip(group, sums, strict=True):
                before, after = x[pair.tensor], y[pair.quantized]
                if [array.shape for array in before] != [array.shape for array in after]:
                    astray.add(pair.tensor)  # rounding led the quantized model into another branch
                    continue
                for one, other in zip(before, after, strict=True):
                    entry.add(one, pair.dequantized(other))
                    compared.add(pair.tensor)
            held = max(held, 2 * sum(array.nbytes for each in x.values() for array in each))
        errors += [
            TensorError(node=pair.node, tensor=pair.tensor, sqnr=entry.sqnr_db)
            for pair, entry in zip(group, sums, strict=True)
            if pair.tensor in compared - astray
        ]
        size = max(1, min(_GROWTH * size, _MEMORY * len(group) // held))
        progress.advance(len(group))
    return tuple(errors)


def _pairs(reference: ir.Model, quantized: ir.Model, plan: Plan) -> Iterator[_Pair]:
    known, written = _visible(reference), _visible(quantized)
    find = _Makers(reference, quantized)
    for decision in plan.decisions:
        if decision.format is Format.DYNAMIC:
            # Several nodes stand for one, and the last of them makes its output under the old name.
            for made in sorted(find.outputs(decision.node) & written):
                yield _Pair(node=decision.node, tensor=made, quantized=made, params=None)
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
            if tensor is not None and _is_float(value):
                stand_in = _dequantized(value)
            elif tensor is not None:
                params = tensor.params
            elif not _is_float(value):
                continue  # codes of a clamp behind this node, which has a decision of its own
            if name in known and stand_in is not None and stand_in.name in written:
                yield _Pair(node=decision.node, tensor=name or "", quantized=stand_in.name, params=params)


def _visible(model: ir.Model) -> set[str]:
    """Return the names of the values that nodes make, but for those that cannot be tapped where they are."""
    hidden = why_hidden(model)
    made = (value for graph in bodies(model) if graph not in hidden for node in graph for value in node.outputs)
    return {value.name for value in made if value.name}


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


def _dequantized(value: ir.Value) -> ir.Value | None:
    """Follow value -> QuantizeLinear -> DequantizeLinear."""
    for use in value.uses():
        if use.node.op_type == "QuantizeLinear" and use.idx == 0:
            for second in use.node.outputs[0].uses():
                if second.node.op_type == "DequantizeLinear":
                    return second.node.outputs[0]
    return None


def _is_float(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()
