"""Which weights must be kept from saturating, and along which of their axes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from onnxq.graph.constants import untransposed
from onnxq.numerics.pair_safe import pair_limit
from onnxq.stages.plan.candidates import Candidate, Kept
from onnxq.types.format import Format
from onnxq.types.plan import PairLimit
from onnxq.types.scheme import QuantType, Scheme

if TYPE_CHECKING:
    import onnx_ir as ir

LARGEST = 255
"""Largest activation code; int8 activations that saturate are made uint8 by the runtime."""


class Pairs:
    """The limits of a model's weights.

    Where activations are quantized at run time, a weight's limit holds for all that read it, turned or as it is: the
    rows of an embedding that is multiplied with as well are then stored once.
    """

    def __init__(self, examined: Iterable[Candidate | Kept]) -> None:
        self._shared: dict[ir.Value, tuple[int, ...]] = {}
        for entry in examined:
            if isinstance(entry, Candidate) and entry.wish.format is Format.DYNAMIC and entry.row.pairs is not None:
                for slot in entry.weights:
                    value, axes = entry.node.inputs[slot], _axes(entry, slot)
                    if value is not None:
                        root, order = untransposed(value)
                        self._shared.setdefault(root, tuple(order[axis] for axis in axes))

    def of(self, entry: Candidate, slot: int, scheme: Scheme, largest: int = LARGEST) -> PairLimit | None:
        """Return the limit of a weight whose activations have codes up to `largest`, None if it needs none."""
        value = entry.node.inputs[slot]
        if scheme.dtype is not QuantType.INT8 or value is None or pair_limit(largest) >= 2 * scheme.dtype.maximum:
            return None
        if entry.row.pairs is not None:
            return PairLimit(axes=_axes(entry, slot), limit=pair_limit(largest))
        root, order = untransposed(value)
        if entry.wish.format is not Format.DYNAMIC or root not in self._shared:
            return None
        return PairLimit(axes=tuple(order.index(axis) for axis in self._shared[root]), limit=pair_limit(largest))


def _axes(entry: Candidate, slot: int) -> tuple[int, ...]:
    value = entry.node.inputs[slot]
    assert entry.row.pairs is not None
    assert value is not None
    return entry.row.pairs(entry.node, 0 if value.shape is None else len(value.shape))
