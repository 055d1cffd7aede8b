"""Weight methods: arrays in, codes and parameters out; one file each.

A weight method is a frozen dataclass whose fields are its options, registered by name:

    @weight_methods.register("rtn")
    @dataclass(frozen=True, kw_only=True, slots=True)
    class RoundToNearest:
        def __call__(self, weight, scheme, *, min_scale=None, importance=None) -> tuple[codes, QuantParams]: ...
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onnxq.errors import RecipeError, nearest
from onnxq.registry import Registry
from onnxq.types.scheme import QuantParams, Scheme


class WeightMethod(Protocol):
    """Turns a float weight into codes and parameters."""

    def __call__(
        self,
        weight: npt.NDArray[np.float32],
        scheme: Scheme,
        *,
        min_scale: npt.NDArray[np.float32] | None = None,
        importance: npt.NDArray[np.float32] | None = None,
    ) -> tuple[npt.NDArray[Any], QuantParams]:
        """Quantize `weight`.

        Args:
            weight: float32, finite.
            scheme: what is wanted; the granularity's axis is filled in.
            min_scale: smallest scale allowed, broadcastable to the scales (keeps int32 biases in range).
            importance: mean square of the input that each weight multiplies, broadcastable to `weight`: how much its
                squared error counts. A method that has no use for it ignores it.

        Returns:
            Codes (of the weight's shape: int32, for floating-point types their values as float32) and the parameters.

        Raises:
            ModelError: the weight holds NaN or infinite values.
        """
        ...


weight_methods: Registry[type[WeightMethod]] = Registry("weight method", "onnxq.weights")


def make_weight_method(name: str, options: Mapping[str, Any] | None = None) -> WeightMethod:
    """Return the weight method called `name` with `options`, its dataclass fields.

    Raises:
        RecipeError: an unknown name or option, with the nearest right spelling.
    """
    method = weight_methods.get(name)
    known = [field.name for field in dataclasses.fields(method)]  # type: ignore[arg-type]
    for option in options or {}:
        if option not in known:
            raise RecipeError(f"weight method '{name}' has no option '{option}'{nearest(option, known)}")
    return method(**dict(options or {}))
