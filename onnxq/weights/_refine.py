"""Codes and scales, each chosen again with all others fixed, for the least squared error of a layer's output.

The error is d^T H d, H = E[x x^T] and d = (codes - zero points) scale - weight, for every output. It is a quadratic
function of each d_k and of each scale, so that the best value of one, all others fixed, has a closed form:

    code of feature k:   d_k = -sum over j != k of H[k, j] d_j / H[k, k], rounded to the grid (exact: the error is a
                         parabola in d_k, whose lowest point on a grid is the point nearest to its vertex)
    scale of a group g:  s += -(c_g^T (H d)_g) / (c_g^T H_gg c_g), c_g its codes relative to the zero point

Coordinate descent over codes is QuantEase (Behdin et al. 2023).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxq.numerics.scales import allowed_scale
from onnxq.weights._matrix import Float32, Int32, WeightMatrix, nearest_codes

_PART = 32  # features whose effect on each other is updated one by one; on the others, by one product


class Refinement:
    """A quantized matrix [features, outputs] that is improved step by step.

    Attributes:
        codes: float32, [features, outputs].
        scale: float32, [groups, outputs or 1].
    """

    def __init__(
        self,
        weight: Float32,
        layout: WeightMatrix,
        *,
        gram: npt.NDArray[np.float64],
        codes: Float32,
        scale: Float32,
        zero_point: Int32,
    ) -> None:
        """Take copies of codes and scale; `gram`: H, all of its diagonal above 0."""
        self.codes = np.array(codes, np.float32)
        self.scale = np.array(scale, np.float32)
        self._weight = weight
        self._layout = layout
        self._gram = gram.astype(np.float32)
        self._diagonal = np.diagonal(self._gram).copy()
        self._number = np.arange(len(weight)) // layout.group
        self._zero_point = zero_point
        self._change = self._steps() * self.scale[self._number] - weight

    def error(self) -> float:
        """Return the squared error, summed over outputs."""
        return float(np.einsum("ko,ko->", self._change, self._gram @ self._change))

    def choose_codes(self) -> None:
        """Choose every code once, feature by feature."""
        for begin in range(0, len(self.codes), _PART):
            part = slice(begin, begin + _PART)
            here = self._gram[part, part]
            pull = self._gram[part] @ self._change
            for j in range(len(pull)):
                k = begin + j
                scale, zero_point = self.scale[self._number[k]], self._zero_point[self._number[k]]
                target = self._weight[k] + self._change[k] - pull[j] / self._diagonal[k]
                self.codes[k] = nearest_codes(target, scale, zero_point, self._layout.scheme)
                moved = (self.codes[k] - zero_point) * scale - self._weight[k]
                pull[j + 1 :] += np.outer(here[j + 1 :, j], moved - self._change[k])
                self._change[k] = moved

    def choose_scales(self, floor: npt.NDArray[np.float32] | None = None) -> None:
        """Choose every scale once; signs stay.

        Args:
            floor: smallest magnitudes, broadcastable to the scales; None for no limit.
        """
        steps, size = self._steps(), self._layout.group
        together = self.scale.shape[1] == 1
        for number in range(len(self.scale)):
            members = slice(number * size, (number + 1) * size)
            mine = steps[members]
            pulled = np.einsum("ko,ko->o", mine, self._gram[members] @ self._change)
            weight = np.einsum("ko,ko->o", mine, self._gram[members, members] @ mine)
            if together:
                pulled, weight = pulled.sum(keepdims=True), weight.sum(keepdims=True)
            old = self.scale[number]
            new = old - pulled / np.where(weight > 0, weight, np.inf)
            size_of = np.abs(np.where(new * old > 0, new, old)).astype(np.float32)
            new = np.sign(old) * allowed_scale(size_of, self._layout.scheme.scale_type)
            if floor is not None:
                new = np.where(np.abs(new) < floor[number], old, new)
            self.scale[number] = new
            self._change[members] += mine * (new - old)

    def _steps(self) -> Float32:
        return np.asarray(self.codes - self._zero_point[self._number], np.float32)
