"""Which values each weight is multiplied with, and what calibration is to observe of them for the weight methods.

Methods that say `full_rank` need at least as many places as features: E[x x^T] has no inverse otherwise. With fewer,
damping alone decides in the directions that no sample reached, and the codes fit the samples by heart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from onnxq.graph.constants import untransposed
from onnxq.stages.plan.entries import Candidate, FloatNode
from onnxq.stages.plan.observed import only_surveyed
from onnxq.stages.plan.tied_tables import hold_same
from onnxq.types.choices import CODEBOOK_METHODS
from onnxq.types.inputs import Needs
from onnxq.types.statistics import TensorStatistics
from onnxq.weights import make_weight_method

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """What to observe of a tensor: its features lie along `axis`; whether products of every two are wanted."""

    axis: int
    products: bool

    def seen_in(self, statistics: TensorStatistics) -> bool:
        """Return whether statistics hold that."""
        channels = statistics.channels
        if channels is None or channels.axis != self.axis:
            return False
        return bool(channels.count.any()) and (channels.products is not None or not self.products)


class WeightInputs:
    """Weights and their inputs, a weight and its transposed copies being one.

    Attributes:
        features: what to observe, by tensor name; empty where no weight method asks for anything.
    """

    def __init__(self, examined: Iterable[Candidate | FloatNode]) -> None:
        self.features: dict[str, Features] = {}
        self._readers: dict[ir.Value, dict[str, int]] = {}
        self._copies: dict[ir.Value, tuple[ir.Value, tuple[int, ...]]] = {}
        for entry in examined:
            needs = _needs(entry)
            if isinstance(entry, Candidate) and (needs is not Needs.NOTHING or entry.request.splits):
                self._add(entry, needs)

    def tensors(self, entry: Candidate, slot: int) -> tuple[str, ...]:
        """Return the tensors whose features a weight's method uses, or the choice of those that stay in float."""
        names = (self.of(entry, slot) or ((), 0))[0]
        if entry.request.splits:
            read = (entry.node.inputs[slot] for slot in entry.activations)
            names += tuple(value.name for value in read if value is not None and value.name in self.features)
        return names

    def of(self, entry: Candidate, slot: int) -> tuple[tuple[str, ...], int] | None:
        """Return the tensors that a weight multiplies, and its axis along which their features lie.

        None where the method needs nothing; no tensors where the weight multiplies nothing, or along two axes.
        """
        value = entry.node.inputs[slot]
        if value is None or _needs(entry) is Needs.NOTHING:
            return None
        root, order = untransposed(value)
        if root not in self._readers:  # an embedding, say: what the product with its copy uses
            root, copied = self._copy_of(root)
            order = tuple(copied[axis] for axis in order)
        readers = self._readers.get(root, {})
        axes = set(readers.values())
        if len(axes) != 1:
            return (), 0
        return tuple(sorted(readers)), order.index(axes.pop())

    def _copy_of(self, value: ir.Value) -> tuple[ir.Value, tuple[int, ...]]:
        """Return a weight that multiplies something and holds the same numbers, and for each axis the one there.

        Exporters write an embedding and the product with its transpose as two constants. Codes of one must be those of
        the other, or both would be stored.
        """
        if value not in self._copies:
            orders = ((1, 0), (0, 1))
            copies = ((each, order) for each in self._readers for order in orders if hold_same(value, each, order))
            rank = 0 if value.shape is None else len(value.shape)
            self._copies[value] = next(copies, (value, tuple(range(rank))))
        return self._copies[value]

    def _add(self, entry: Candidate, needs: Needs) -> None:
        node, fact = entry.node, entry.fact
        if entry.hidden:
            return
        if fact.weight not in entry.weights or fact.feature_axis is None or fact.reduction_axis is None:
            return
        value, source = node.inputs[fact.weight], node.inputs[entry.activations[0]] if entry.activations else None
        if value is None or value.shape is None or source is None or source.shape is None or not source.name:
            return
        wanted = Features(axis=fact.feature_axis(node, len(source.shape)), products=needs is Needs.PRODUCTS)
        known = self.features.get(source.name, wanted)
        if known.axis != wanted.axis:  # one tensor, one axis: the first reader's
            return
        self.features[source.name] = Features(axis=wanted.axis, products=wanted.products or known.products)
        root, order = untransposed(value)
        self._readers.setdefault(root, {})[source.name] = order[fact.reduction_axis(node, len(value.shape))]


def missing(features: Mapping[str, Features], name: str, statistics: TensorStatistics | None) -> bool:
    """Return whether a tensor was not observed, or not as weight methods need it; False if it is never computed."""
    if statistics is None or only_surveyed(statistics):
        return True
    return bool(statistics.samples) and name in features and not features[name].seen_in(statistics)


def _needs(entry: Candidate | FloatNode) -> Needs:
    if not isinstance(entry, Candidate) or not entry.weights:
        return Needs.NOTHING
    if entry.request.weights.codebook is not None:
        return Needs.SQUARES if entry.request.method == CODEBOOK_METHODS[1] else Needs.NOTHING
    return _method_needs(entry.request.method)


@cache
def _method_needs(method: str) -> Needs:
    return make_weight_method(method).needs


_INSTEAD = "mse:importance=true"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortage:
    """A weight whose inputs were observed at fewer places (`rows`) than they have features, and its method."""

    weight: str
    method: str
    rows: int
    features: int


def shortage(
    weight: str, method: str, names: Sequence[str], observed: Mapping[str, TensorStatistics]
) -> Shortage | None:
    """Return the shortage of rows for a weight's method, None where there is none, or where nothing was counted yet."""
    counts = [channels.count for name in names if (channels := observed[name].channels) is not None]
    if not counts or not _wants_full_rank(method):
        return None
    rows, features = sum(int(count.max(initial=0)) for count in counts), counts[0].size
    return Shortage(weight=weight, method=method, rows=rows, features=features) if rows < features else None


def instead(method: str) -> str:
    """Return the method that takes the place of one that lacks rows."""
    return (
        f"{_INSTEAD},negative_scales=true"
        if getattr(make_weight_method(method), "negative_scales", False)
        else _INSTEAD
    )


def few_rows(shortages: Collection[Shortage]) -> tuple[str, ...]:
    """Return a warning that says of all weights at once what was done and what to do; () where no rows are lacking."""
    if not shortages:
        return ()
    worst = min(shortages, key=lambda each: each.rows / each.features)
    count = "1 weight is" if len(shortages) == 1 else f"{len(shortages)} weights are"
    return (
        f"{count} quantized with {instead(worst.method)}, not {worst.method}: calibration brought "
        f"{worst.rows} rows of inputs for the {worst.features} features of '{worst.weight}', and fewer rows than "
        "features say nothing about some directions; calibrate with more samples, ten rows a feature or so",
    )


@cache
def _wants_full_rank(method: str) -> bool:
    return bool(getattr(make_weight_method(method), "full_rank", False))
