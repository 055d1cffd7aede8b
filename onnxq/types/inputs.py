"""What a weight method may know of the values that a weight is multiplied with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Needs(IntEnum):
    """What a weight method asks calibration to observe; each level brings those below it.

    SQUARES is one number an input feature, PRODUCTS one for every two of them: K features take 8 K^2 bytes, so a
    method should ask for them only if it uses them.
    """

    NOTHING = 0
    SQUARES = 1
    PRODUCTS = 2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Inputs:
    """Second moments of the features x that a weight multiplies, over all readers of the weight.

    The squared error that the rounding error d of one output's weights causes is d^T E[x x^T] d on average; with
    uncorrelated features the sum of d^2 E[x^2].

    Attributes:
        axis: the weight's axis that the features lie along.
        squares: E[x^2], float64, one for each feature; a grouped convolution has features x groups of them.
        products: E[x x^T], float64, (features, features); None unless the method needs them and every output is a sum
            over these features alone (not so for kernels larger than 1 and for stacks of matrices).
        rows: at how many places the inputs were seen; 0 where that is not known.
    """

    axis: int
    squares: npt.NDArray[np.float64]
    products: npt.NDArray[np.float64] | None = None
    rows: int = 0

    def importance(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Return how much the squared error of each weight counts, broadcastable to a weight of this shape."""
        import numpy as np

        features = shape[self.axis]
        groups = self.squares.size // features
        wanted = [1] * len(shape)
        wanted[self.axis] = features
        if groups == 1:
            return self.squares.astype(np.float32).reshape(wanted)
        # Conv [outputs, inputs of a group, *kernel]: outputs lie group by group.
        wanted[0] = shape[0]
        each = np.repeat(self.squares.reshape(groups, features), shape[0] // groups, axis=0)
        return each.astype(np.float32).reshape(wanted)
