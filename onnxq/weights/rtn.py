"""Round to nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxq.numerics.affine import params_from_range, quantize, weight_range
from onnxq.types.inputs import Inputs, Needs
from onnxq.types.scheme import QuantParams, Scheme
from onnxq.weights import weight_methods


@weight_methods.register("rtn")
@dataclass(frozen=True, kw_only=True, slots=True)
class RoundToNearest:
    """Round to nearest: the range of each group is that of its values, so that nothing is clipped."""

    needs: ClassVar[Needs] = Needs.NOTHING

    def __call__(
        self,
        weight: npt.NDArray[np.float32],
        scheme: Scheme,
        *,
        min_scale: npt.NDArray[np.float32] | None = None,
        inputs: Inputs | None = None,
    ) -> tuple[npt.NDArray[Any], QuantParams]:
        """Quantize `weight`; see WeightMethod."""
        low, high = weight_range(weight, scheme)
        params = params_from_range(low, high, scheme, min_scale=min_scale)
        return quantize(weight, params), params
