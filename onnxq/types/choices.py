"""Choices: what a recipe says of schemes and methods, each with a short form as text."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from onnxq.errors import RecipeError, nearest
from onnxq.types import shorthand
from onnxq.types.scheme import (
    Granularity,
    PerBlock,
    PerChannel,
    PerTensor,
    PerToken,
    QuantType,
    Rounding,
    ScaleType,
    Scheme,
    index_type,
)


class StrictModel(BaseModel):
    """Plain data whose unknown keys are errors, and which never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_PARTS = frozenset(part.name for part in fields(Scheme)) - {"codebook"}
_PLAIN = {"per-tensor": PerTensor, "per-channel": PerChannel, "per-token": PerToken}


def _granularity(value: object) -> object:
    """Accept the short form: `per-channel`, `per-block(32)`."""
    if not isinstance(value, str):
        return value
    if value in _PLAIN:
        return _PLAIN[value]()
    block = re.fullmatch(r"per-block\((\d+)\)", value)
    if block:
        return PerBlock(size=int(block[1]))
    raise ValueError(f"unknown granularity '{value}'{nearest(value, [*_PLAIN, 'per-block(32)'])}")


class SchemeChoice(StrictModel):
    """A scheme with holes: what is None comes from the rule below, or from the target. Short: `uint8,per-tensor`."""

    dtype: QuantType | None = None
    symmetric: bool | None = None
    granularity: Annotated[Granularity, Field(discriminator="kind"), BeforeValidator(_granularity)] | None = None
    rounding: Rounding | None = None
    narrow: bool | None = None
    scale_type: ScaleType | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return shorthand.scheme(value) if isinstance(value, str) else value

    def over(self, base: Scheme) -> Scheme:
        """Return `base` with the parts that are chosen here put in their place."""
        chosen = {name: getattr(self, name) for name in type(self).model_fields if name in _PARTS}
        return replace(base, **{name: value for name, value in chosen.items() if value is not None})


class ActivationChoice(SchemeChoice):
    """A scheme with holes for activations, and from which magnitude on a feature is left out of it (`outliers=6`)."""

    outliers: float | None = Field(default=None, gt=0, allow_inf_nan=False)


CODEBOOK_METHODS = ("kmeans", "kmeans:importance=true")
"""Exact k-means; errors as they are, or weighed by the mean square of the input that each weight multiplies."""


class WeightChoice(SchemeChoice):
    """A scheme with holes for weights, and the method that turns weights into codes.

    A codebook brings the type of its indices, one table a tensor, and its own method, CODEBOOK_METHODS; a dtype alone
    asks for evenly spaced codes again.
    """

    method: str | None = None
    codebook: int | None = Field(default=None, ge=2, le=8)
    vector: int | None = Field(default=None, ge=1, le=32)

    def over(self, base: Scheme) -> Scheme:
        """Return `base` with the parts that are chosen here put in their place.

        Raises:
            RecipeError: a part that codebooks do not have, or a type that does not hold the indices.
        """
        bits = self.codebook if self.dtype is not None else self.codebook or base.codebook
        if bits is None:
            return super().over(replace(base, codebook=None, vector=1))
        for name in ("method", "symmetric", "rounding", "narrow", "scale_type"):
            if getattr(self, name) not in (None, *(CODEBOOK_METHODS if name == "method" else ())):
                raise RecipeError(f"a codebook has no {name}: exact k-means finds its values; leave `{name}` out")
        granularity = PerTensor() if base.codebook is None else base.granularity
        start = Scheme(dtype=index_type(bits), symmetric=False, granularity=granularity, codebook=bits)
        return super().over(replace(start, vector=base.vector if base.codebook is not None else 1))


class MethodChoice(StrictModel):
    """A method by name, with its options."""

    name: str
    options: dict[str, float | int | str | bool] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return shorthand.method(value) if isinstance(value, str) else value

    def __str__(self) -> str:
        """Return the short form."""
        options = ",".join(
            f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in self.options.items()
        )
        return f"{self.name}:{options}" if options else self.name


class CalibratorChoice(MethodChoice):
    """A calibrator by name, with its options. Short: `percentile:percentile=99.9`."""

    name: str = "mse"


class EqualizerChoice(MethodChoice):
    """An equalizer by name, with its options. Short: `smoothquant:alpha=0.5`."""
