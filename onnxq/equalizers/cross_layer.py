"""Cross-layer equalization: channels between two layers get weights of the same range on both sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxq.equalizers import Floats, Place, equalizers


@equalizers.register("cross-layer")
@dataclass(frozen=True, kw_only=True, slots=True)
class CrossLayer:
    """Divide channel i by s_i = sqrt(r1_i / r2_i): both sides then have the range sqrt(r1_i r2_i).

    r1_i is the largest magnitude of the weights that compute channel i, r2_i of those that it is multiplied with
    (Nagel, van Baalen, Blankevoort and Welling 2019, arXiv 1906.04721, section 4.1, eq. 11). It is for weights with one
    scale a tensor; with one a channel, which most targets have, rows of the first layer need no help.
    """

    place: ClassVar[Place] = Place.RANGES
    rank: ClassVar[int] = 10

    def __call__(self, first: Floats, second: Floats) -> Floats:
        """Return the scales; 1 for channels whose weights are all 0 on one side."""
        live = (first > 0) & (second > 0)
        ratio = np.divide(first, second, out=np.ones(first.size), where=live)
        return np.sqrt(ratio)
