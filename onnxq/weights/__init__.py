"""Weight methods: arrays in, codes and parameters out; one file each.

A weight method is a frozen dataclass whose fields are its options, registered by name:

    @weight_methods.register("rtn")
    @dataclass(frozen=True, kw_only=True, slots=True)
    class RoundToNearest:
        needs = Needs.NOTHING

        def __call__(self, weight, scheme, *, min_scale=None, inputs=None) -> tuple[codes, QuantParams]: ...

`needs` says what a method must know of the inputs that a weight multiplies, and may depend on its options; calibration
then observes it, the plan names the tensors it was observed on, and the rewrite passes it on. Two more class attributes
or fields are optional: `full_rank` (the products must come from at least as many rows as there are features; the plan
uses another method otherwise, and says so) and `sequential` (products as the quantized model computes them, see
onnxq.stages.layerwise.sequential).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from onnxq.errors import RecipeError
from onnxq.registry import Registry
from onnxq.types import shorthand
from onnxq.types.inputs import Inputs, Needs
from onnxq.types.scheme import QuantParams, Scheme


class WeightMethod(Protocol):
    """Turns a float weight into codes and parameters."""

    @property
    def needs(self) -> Needs:
        """Return what the method must know of the weight's inputs; may be a class attribute."""
        ...

    def __call__(
        self,
        weight: npt.NDArray[np.float32],
        scheme: Scheme,
        *,
        min_scale: npt.NDArray[np.float32] | None = None,
        inputs: Inputs | None = None,
    ) -> tuple[npt.NDArray[Any], QuantParams]:
        """Quantize `weight`.

        Args:
            weight: float32, finite.
            scheme: of the codes; the granularity's axis is filled in.
            min_scale: smallest scale allowed, broadcastable to the scales (keeps int32 biases in range).
            inputs: what it `needs`; None where the method needs nothing, and where nothing is known (embeddings,
                weights that no data ever reached): it then does what is possible without.

        Returns:
            Codes (of the weight's shape: int32, for floating-point types their values as float32) and the parameters.

        Raises:
            ModelError: the weight holds NaN or infinite values.
        """
        ...


weight_methods: Registry[type[WeightMethod]] = Registry("weight method", "onnxq.weights")


def make_weight_method(name: str, options: Mapping[str, Any] | None = None) -> WeightMethod:
    """Return the weight method called `name`.

    Args:
        name: as registered ("rtn", "mse"), alone or with options in short: "mse:steps=32".
        options: values for the fields of its dataclass; the others keep their defaults.

    Raises:
        RecipeError: an unknown name or option, with the nearest right spelling, or a value of the wrong type.
    """
    try:
        short: Any = shorthand.method(name)
    except ValueError as error:
        raise RecipeError(f"weight method: {error}") from None
    return cast(WeightMethod, weight_methods.make(short["name"], {**short["options"], **(options or {})}))
