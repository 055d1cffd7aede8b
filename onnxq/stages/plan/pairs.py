"""Which weights must be kept from saturating, and along which of their axes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxq.graph.constants import untransposed
from onnxq.stages.plan.candidates import Candidate, Kept
from onnxq.targets import Target
from onnxq.targets.pair_sums import product_of
from onnxq.types.format import Format
from onnxq.types.plan import PairLimit
from onnxq.types.scheme import QuantType, Scheme

if TYPE_CHECKING:
    import onnx_ir as ir


class Pairs:
    """The limits of a model's weights.

    Where activations are quantized at run time, a weight's limit holds for all that read it, transposed or not: the
    rows of an embedding that is multiplied with as well are then stored once.
    """

    def __init__(self, examined: Iterable[Candidate | Kept], target: Target) -> None:
        self._target = target
        self._shared: dict[ir.Value, PairLimit] = {}
        for entry in examined:
            if isinstance(entry, Candidate) and entry.wish.format is Format.DYNAMIC and entry.row.pairs:
                for slot in entry.weights:
                    value, limit = entry.node.inputs[slot], self._own(entry, slot, QuantType.INT8, None)
                    if value is not None and limit is not None:
                        root, order = untransposed(value)
                        self._shared.setdefault(root, replace(limit, axes=tuple(order[axis] for axis in limit.axes)))

    def of(self, entry: Candidate, slot: int, scheme: Scheme, largest: int | None = None) -> PairLimit | None:
        """Return the limit of a weight whose activations have codes up to `largest`, None if it needs none."""
        value = entry.node.inputs[slot]
        if value is None:
            return None
        if entry.row.pairs:
            return self._own(entry, slot, scheme.dtype, largest)
        root, order = untransposed(value)
        if scheme.dtype is not QuantType.INT8 or entry.wish.format is not Format.DYNAMIC or root not in self._shared:
            return None
        shared = self._shared[root]
        return replace(shared, axes=tuple(order.index(axis) for axis in shared.axes))

    def _own(self, entry: Candidate, slot: int, weights: QuantType, largest: int | None) -> PairLimit | None:
        product = product_of(
            entry.node, slot, form=entry.wish.format, activations=entry.wish.activations.dtype, weights=weights
        )
        return self._target.pair_limit(product, largest)
