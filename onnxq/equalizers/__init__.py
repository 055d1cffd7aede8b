"""Equalizers: what makes a model easier to quantize without changing what it computes; numbers in, numbers out.

An equalizer is a frozen dataclass whose fields are its options, registered by name, one file each:

    @equalizers.register("smoothquant")
    @dataclass(frozen=True, kw_only=True, slots=True)
    class SmoothQuant:
        place: ClassVar[Place] = Place.INPUTS
        rank: ClassVar[int] = 40

        def __call__(self, inputs: LinearInputs) -> Scales | str: ...

`place` says what it is called with and what it returns; where a scale then goes in the graph is not its business
(`onnxq.stages.equalize`). Text in place of a result says why nothing is to be done. `rank` is its place in the order
that makes sense: what follows must not undo what came before.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import numpy.typing as npt

from onnxq.errors import RecipeError
from onnxq.registry import Registry
from onnxq.types.recipe import EqualizerChoice
from onnxq.types.scheme import Scheme

Floats = npt.NDArray[np.float64]


class Place(StrEnum):
    """What an equalizer looks at.

    INPUTS: the features of a tensor and the weights that they are multiplied with (`LinearInputs` -> `Scales`).
    RANGES: the channels between two layers, by the ranges of the weights on both sides (-> scales).
    LOWEST: the channels between two layers with a Relu, by their lowest values (-> what to take off).
    STREAM: the residual stream of a transformer (its width -> an orthogonal matrix).
    """

    INPUTS = "inputs"
    RANGES = "ranges"
    LOWEST = "lowest"
    STREAM = "stream"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Linear:
    """A weight of a linear layer.

    Attributes:
        weight: float32. axis: the one that meets the features. scheme: how it will be quantized.
    """

    weight: npt.NDArray[np.float32]
    axis: int
    scheme: Scheme

    def along(self, features: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return numbers of the features, shaped to broadcast against the weight."""
        shape = [1] * self.weight.ndim
        shape[self.axis] = -1
        return features.reshape(shape)

    def per_feature(self, values: npt.NDArray[Any]) -> Floats:
        """Return the sums of values of the weight's shape over all but the features' axis."""
        others = tuple(axis for axis in range(self.weight.ndim) if axis != self.axis % self.weight.ndim)
        return np.asarray(values.sum(axis=others, dtype=np.float64))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LinearInputs:
    """Features x that linear layers multiply, as calibration saw them, and the layers' weights.

    Attributes:
        minimum, maximum: extremes of each feature. squares: E[x^2] of each. All float64, (features,).
        activations: how the features will be quantized, None where they stay in float.
        layers: the weights; all of them read the same features.
    """

    minimum: Floats
    maximum: Floats
    squares: Floats
    activations: Scheme | None
    layers: tuple[Linear, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scales:
    """Features are to be divided by `scale`, and the weights that meet them multiplied with it.

    Attributes:
        scale: float64, (features,), finite and above 0. text: how it was found, in words.
        before, after: expected squared error of the layers' outputs, relative to their mean square.
    """

    scale: Floats
    text: str
    before: float
    after: float


class Equalizer(Protocol):
    """Finds what makes the numbers at one place easier to quantize; what it is called with, its `place` says."""

    place: ClassVar[Place]
    rank: ClassVar[int]


class InputEqualizer(Equalizer, Protocol):
    """One of Place.INPUTS."""

    def __call__(self, inputs: LinearInputs) -> Scales | str:
        """Return what to do, or in words why nothing is to be done."""
        ...


class RangeEqualizer(Equalizer, Protocol):
    """One of Place.RANGES."""

    def __call__(self, first: Floats, second: Floats) -> Floats:
        """Return what to divide each channel by, float64, (channels,), finite and above 0.

        Args:
            first: largest magnitude of the weights that compute each channel. second: of those that it meets.
        """
        ...


class LowestEqualizer(Equalizer, Protocol):
    """One of Place.LOWEST."""

    def __call__(self, lowest: Floats) -> Floats:
        """Return what to take off each channel, float64, (channels,), 0 or more.

        Args:
            lowest: the lowest value of each channel that was seen in front of the Relu.
        """
        ...


class StreamEqualizer(Equalizer, Protocol):
    """One of Place.STREAM."""

    def __call__(self, width: int) -> Floats:
        """Return the orthogonal matrix to turn the stream by, float64, (width, width)."""
        ...


equalizers: Registry[type[Equalizer]] = Registry("equalizer", "onnxq.equalizers")


def make_equalizer(choice: EqualizerChoice) -> Equalizer:
    """Return the equalizer that a recipe names.

    Raises:
        RecipeError: an unknown name or option, with the nearest right spelling, or a value of the wrong type.
    """
    return cast(Equalizer, equalizers.make(choice.name, choice.options))


def make_equalizers(choices: Sequence[EqualizerChoice]) -> tuple[Equalizer, ...]:
    """Return the equalizers of a recipe, in its order.

    Raises:
        RecipeError: as for `make_equalizer`; or an order in which one would undo what another did.
    """
    found = tuple(make_equalizer(choice) for choice in choices)
    for number, (first, second) in enumerate(itertools.pairwise(found)):
        one, two = choices[number].name, choices[number + 1].name
        if first.rank == second.rank:
            twice = "is there twice" if one == two else f"does what '{two}' does"
            raise RecipeError(f"equalize: '{one}' {twice}; take one of them")
        if first.rank > second.rank:
            raise RecipeError(f"equalize: '{two}' must come before '{one}', or it would undo what that has found")
    return found
