"""Matrix products as sums of looked-up numbers (Blalock and Guttag 2021, Multiplying Matrices Without Multiplying).

Activations are replaced by the nearest prototype of each run of features, and the products of prototypes and weights
are known beforehand. One table of [prototypes, outputs] a run: far more numbers than the weights, and finding the
nearest prototypes is a product of matrices itself, of size features x prototypes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnxq.numerics.product_codes import nearest, nearest_means

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LookUpProduct:
    """x W as sums of looked-up numbers.

    Attributes:
        prototypes: float32 [runs, prototypes, length].
        sums: float32 [runs, prototypes, outputs], their products with the weights.
    """

    prototypes: Float32
    sums: Float32

    def __call__(self, x: Float32) -> Float32:
        """Return about x W for x [rows, features]."""
        runs, _, length = self.prototypes.shape
        parts = x.reshape(len(x), runs, length)
        result = np.zeros((len(x), self.sums.shape[2]), np.float32)
        for run in range(runs):
            result += self.sums[run][nearest(parts[:, run], self.prototypes[run])]
        return result


def look_up_product(weight: Float32, samples: Float32, *, length: int, count: int = 16) -> LookUpProduct:
    """Return the product with `weight` [features, outputs] as look-ups, its prototypes learned on `samples`.

    Args:
        weight: [features, outputs].
        samples: inputs [rows, features], at least `count` rows.
        length: features of a run, which divides them.
        count: prototypes of each run.
    """
    parts = samples.reshape(len(samples), -1, length)
    prototypes = np.stack([nearest_means(parts[:, run], count) for run in range(parts.shape[1])])
    return LookUpProduct(prototypes=prototypes, sums=np.matmul(prototypes, weight.reshape(-1, length, weight.shape[1])))
