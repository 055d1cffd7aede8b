"""Gradient descent on arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-8


class Adam:
    """Adam (Kingma and Ba 2015), with the usual constants; the size of a gradient's unit does not matter."""

    def __init__(self, start: Float32, rate: float | Float32) -> None:
        """Begin at a point.

        Args:
            start: the point.
            rate: learning rate, one number or one for each element."""
        self._x = start.astype(np.float32)
        self._rate = rate
        self._mean = np.zeros_like(self._x)
        self._square = np.zeros_like(self._x)
        self._unit = 0.0
        self._steps = 0

    def step(self, gradient: Float32) -> Float32:
        """Return the next point."""
        if not self._unit:  # gradients of a size near 1, so that squares neither overflow nor underflow
            self._unit = float(np.abs(gradient).max()) or 1.0
        gradient = gradient * np.float32(1 / self._unit)
        self._steps += 1
        self._mean += (1 - _FIRST) * (gradient - self._mean)
        self._square += (1 - _SECOND) * (gradient * gradient - self._square)
        mean = self._mean / (1 - _FIRST**self._steps)
        square = self._square / (1 - _SECOND**self._steps)
        self._x = (self._x - self._rate * mean / (np.sqrt(square) + _TINY)).astype(np.float32)
        return self._x
