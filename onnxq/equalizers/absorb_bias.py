"""Bias absorption: the lowest value of a channel moves behind the Relu, into the next layer's bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxq.equalizers import Floats, Place, equalizers


@equalizers.register("absorb-bias")
@dataclass(frozen=True, kw_only=True, slots=True)
class AbsorbBias:
    """Take c_i = max(0, lowest value of channel i) off the first layer's bias, and add W c to the second layer's.

    Relu(x - c) + c = Relu(x) wherever x >= c (Nagel, van Baalen, Blankevoort and Welling 2019, arXiv 1906.04721,
    section 4.3). The paper takes the mean less three standard deviations for the lowest value; here it is the
    lowest one observed in calibration, so that outputs change only for inputs that leave the calibrated range.

    Attributes:
        part: of the lowest value that is subtracted; less than 1 leaves room for inputs that calibration did not have.
    """

    part: float = 1.0

    place: ClassVar[Place] = Place.LOWEST
    rank: ClassVar[int] = 20

    def __call__(self, lowest: Floats) -> Floats:
        """Return what to subtract."""
        return np.maximum(lowest, 0.0) * self.part
