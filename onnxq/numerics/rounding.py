"""Rounding strategies: functions from quotients to whole numbers, both floating point.

Weight methods may pass a function of their own (adaptive rounding) instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.types.scheme import Rounding

Array = npt.NDArray[Any]
Round = Callable[[Array], Array]


def rounding(strategy: Rounding, *, seed: int = 0) -> Round:
    """Return the function that carries out `strategy`.

    Args:
        strategy: nearest-even is the rounding of QuantizeLinear.
        seed: for stochastic rounding; equal seeds and calls give equal results.
    """
    if strategy is Rounding.STOCHASTIC:
        generator = np.random.Generator(np.random.PCG64(seed))

        def stochastic(quotients: Array) -> Array:
            # Up with probability of the fraction, so that the expected result is the quotient itself
            # (Gupta et al. 2015, Deep Learning with Limited Numerical Precision, section 3).
            whole: Array = np.floor(quotients)
            return whole + (generator.random(np.shape(quotients), dtype=np.float32) < quotients - whole)

        return stochastic
    return _DETERMINISTIC[strategy]


def _nearest_away(quotients: Array) -> Array:
    # floor(|x| + 0.5) would be wrong just below one half, where the sum rounds up to 1.
    whole: Array = np.trunc(quotients)
    away = np.abs(quotients - whole) >= 0.5
    return np.where(away, whole + np.copysign(1, quotients), whole)


_DETERMINISTIC: dict[Rounding, Round] = {
    Rounding.NEAREST_EVEN: np.rint,
    Rounding.NEAREST_AWAY: _nearest_away,
    Rounding.FLOOR: np.floor,
    Rounding.CEIL: np.ceil,
}
