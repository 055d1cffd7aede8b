"""Hadamard: the residual stream is rotated so that no feature is an outlier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxq.equalizers import Floats, Place, equalizers


@equalizers.register("hadamard")
@dataclass(frozen=True, kw_only=True, slots=True)
class Hadamard:
    """Rotate the residual stream by an orthogonal matrix: each feature becomes a sum of all, with random signs.

    An outlier in one feature is spread over all (Ashkboos et al. 2024, QuaRot, arXiv 2404.00456, section 4.1; Liu
    et al. 2024, SpinQuant, arXiv 2405.16406, learn the matrix). RMSNorm without its gamma commutes with it, since
    lengths stay; the weights on both sides take the matrix, so it costs nothing at run time except where the stream
    begins and ends, if others read the embedding too.

    The matrix is a Hadamard matrix for the part of the width that is a power of two, Kronecker a discrete cosine
    transform for the rest (576 = 64 x 9).

    Attributes:
        seed: of the signs.
    """

    seed: int = 0

    place: ClassVar[Place] = Place.STREAM
    rank: ClassVar[int] = 30

    def __call__(self, width: int) -> Floats:
        """Return the matrix."""
        from scipy.fft import dct
        from scipy.linalg import hadamard

        even = width & -width
        rest = dct(np.eye(width // even), norm="ortho", axis=0)
        signs = np.random.default_rng(self.seed).choice([-1.0, 1.0], width)
        return np.asarray(signs[:, None] * np.kron(hadamard(even) / np.sqrt(even), rest))
