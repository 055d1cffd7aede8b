"""Which weights must be kept from saturating, and along which of their axes."""

from __future__ import annotations

from onnxq.stages.plan.candidates import Candidate
from onnxq.targets import Target
from onnxq.targets.pair_sums import product_of
from onnxq.types.plan import PairLimit
from onnxq.types.scheme import Scheme


class Pairs:
    """The limits of weights on a target."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def of(self, entry: Candidate, slot: int, scheme: Scheme, largest: int | None = None) -> PairLimit | None:
        """Return the limit of a weight whose activations have codes up to `largest`, None if it needs none."""
        if not entry.row.pairs or entry.node.inputs[slot] is None:
            return None
        running = entry.wish.activations.dtype
        product = product_of(entry.node, slot, form=entry.wish.format, activations=running, weights=scheme.dtype)
        return self._target.pair_limit(product, largest)
