"""Equalizers: methods that make a model easier to quantize without changing what it computes.

An equalizer is a frozen dataclass whose fields are its options, registered by name, one file each:

    @equalizers.register("smoothquant")
    @dataclass(frozen=True, kw_only=True, slots=True)
    class SmoothQuant:
        place: ClassVar[Place] = Place.INPUTS
        rank: ClassVar[int] = 40

        def __call__(self, inputs: LinearInputs) -> Scales | str: ...

`place` says what it is called with and what it returns; `onnxq.stages.equalize` finds where a scale goes in the graph.
Text in place of a result says why nothing is to be done. `rank` gives its place in the order: a later equalizer must
not undo an earlier one.
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
from onnxq.types.choices import EqualizerChoice
from onnxq.types.scheme import Scheme

Floats = npt.NDArray[np.float64]


class Place(StrEnum):
    """The numbers that an equalizer reads.

    INPUTS: the features of a tensor and the weights that they are multiplied with (`LinearInputs` -> `Scales`).
    RANGES: the channels between two layers, by the ranges of the weights on both sides (-> scales).
    LOWEST: the channels between two layers with a Relu, by their lowest values (-> what to subtract).
    STREAM: the residual stream of a transformer (its width -> an orthogonal matrix).
    """

    INPUTS = "inputs"
    RANGES = "ranges"
    LOWEST = "lowest"
    STREAM = "stream"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LinearWeight:
    """A weight of a linear layer.

    Attributes:
        weight: float32.
        axis: the one along which it multiplies the features.
        scheme: how it will be quantized.
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
        """Return the sums of values of the weight's shape over all axes except the features'."""
        others = tuple(axis for axis in range(self.weight.ndim) if axis != self.axis % self.weight.ndim)
        return np.asarray(values.sum(axis=others, dtype=np.float64))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LinearInputs:
    """Features x that linear layers multiply, as observed in calibration, and the layers' weights.

    Attributes:
        minimum: lowest value of each feature, float64, (features,).
        maximum: highest value of each feature, float64, (features,).
        squares: E[x^2] of each feature, float64, (features,).
        activations: how the features will be quantized, None where they stay in float.
        layers: the weights; all of them read the same features.
    """

    minimum: Floats
    maximum: Floats
    squares: Floats
    activations: Scheme | None
    layers: tuple[LinearWeight, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scales:
    """Features are to be divided by `scale`, and the weights that multiply them are to be multiplied by it.

    Attributes:
        scale: float64, (features,), finite and above 0.
        text: how it was chosen, in words.
        before: expected squared error of the layers' outputs without it, relative to their mean square.
        after: the same with it.
    """

    scale: Floats
    text: str
    before: float
    after: float


class Equalizer(Protocol):
    """Makes the numbers at one place easier to quantize; `place` says what it is called with."""

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
            first: largest magnitude of the weights that compute each channel.
            second: largest magnitude of the weights that multiply it.
        """
        ...


class LowestEqualizer(Equalizer, Protocol):
    """One of Place.LOWEST."""

    def __call__(self, lowest: Floats) -> Floats:
        """Return what to subtract from each channel, float64, (channels,), 0 or more.

        Args:
            lowest: the lowest observed value of each channel in front of the Relu.
        """
        ...


class StreamEqualizer(Equalizer, Protocol):
    """One of Place.STREAM."""

    def __call__(self, width: int) -> Floats:
        """Return the orthogonal matrix to rotate the stream by, float64, (width, width)."""
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
        RecipeError: as for `make_equalizer`; or an order in which one would undo another.
    """
    result = tuple(make_equalizer(choice) for choice in choices)
    for number, (first, second) in enumerate(itertools.pairwise(result)):
        one, two = choices[number].name, choices[number + 1].name
        if first.rank == second.rank:
            twice = "is there twice" if one == two else f"does what '{two}' does"
            raise RecipeError(f"equalize: '{one}' {twice}; take one of them")
        if first.rank > second.rank:
            raise RecipeError(f"equalize: '{two}' must come before '{one}', or it would undo it")
    return result
