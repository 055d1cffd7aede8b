"""How many codes an activation uses where sums of pairs saturate: fewer of them leave room for larger weight codes.

With codes from 0 to L, neighbouring weight codes of one sign may add up to 32767 / L: 128 for all 255, and with 127 (7
bits) no pair of weights can be too large. Which is better depends on the layer. An output's expected squared error is,
for independent errors,

    E[x^2] * (error of the weights, summed) + (error of the activation) * (squares of the weights, summed),

the weights' error being scale^2 / 12 each. It is compared for a few L, relative to the output's own square and summed
over all nodes that read the activation; nodes without weights count the activation's error alone.

A value beyond the calibrated range would have a code above L, and its sums would saturate. So this is done only where
the operator that computes the activation bounds it (Sigmoid, Softmax, a Clip that stays in the graph), and L is at that
bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxq.graph.constants import moved_tensor
from onnxq.numerics.affine import params_from_range, quantize, weight_range
from onnxq.numerics.blocks import parameter_shape
from onnxq.numerics.density import Moments, distribution, expected_error
from onnxq.numerics.pair_safe import fit_pairs
from onnxq.stages.plan.entries import Candidate
from onnxq.targets import Target
from onnxq.targets.pair_sums import LARGEST, product_of
from onnxq.types.plan import PairLimit
from onnxq.types.scheme import PerTensor, QuantParams, Scheme
from onnxq.types.statistics import TensorStatistics

if TYPE_CHECKING:
    import onnx_ir as ir

_FEWER = (191, 159, 127)
_WORTH = 0.8  # of the error with all codes: gains expected to be smaller were not observed at outputs of real models


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reader:
    """A node that reads the activation as codes: its weight, if it has one, and the weight's scheme."""

    entry: Candidate
    slot: int | None
    scheme: Scheme | None


def fewer_codes(
    params: QuantParams, observed: TensorStatistics, readers: Sequence[Reader], pairs: Pairs, highest: float
) -> tuple[QuantParams, int] | None:
    """Return parameters that use fewer codes, and the largest one above the lowest, where that loses less; else None.

    Args:
        params: with all codes: 8 bits, asymmetric, per tensor. observed: of the activation.
        readers: all nodes that read it as codes. pairs: the limits of their weights.
        highest: what no value of it exceeds, whatever the model's inputs.
    """
    limited = [reader for reader in readers if _limited(reader, pairs)]
    if not limited or params.scheme.symmetric or not observed.clusters:
        return None
    density = distribution(observed)
    power = float(density.moments()[2].sum()) / observed.count if observed.count else 0.0
    if power <= 0:
        return None
    weights = [None if reader not in limited else _Weight(reader) for reader in readers]
    moments = Moments(density)

    def error_of(tried: QuantParams, largest: int) -> float:
        own = _own_error(tried, moments) / power
        return sum(own + (0.0 if weight is None else weight.error(largest, pairs)) for weight in weights)

    best, better = _WORTH * error_of(params, LARGEST), None
    for largest in _FEWER:
        tried = _with(params, largest)
        error = error_of(tried, largest)
        if error < best and _highest_code(tried, highest) <= largest:
            best, better = error, (tried, largest)
    return better


def _limited(reader: Reader, pairs: Pairs) -> bool:
    if reader.slot is None or reader.scheme is None:
        return False
    return pairs.of(reader.entry, reader.slot, reader.scheme) is not None


def _with(params: QuantParams, largest: int) -> QuantParams:
    """Return the same range, whose highest code is `largest` above the lowest."""
    scale, zero_point = float(params.scale), int(params.zero_point)
    lowest = (params.scheme.code_range[0] - zero_point) * scale
    span = scale * LARGEST * LARGEST / largest
    return params_from_range(lowest, lowest + span, params.scheme)


def _highest_code(params: QuantParams, value: float) -> int:
    """Return how far above the lowest code the code of a value lies."""
    code = quantize(np.asarray([value], np.float32), params)
    return int(code[0]) - params.scheme.code_range[0]


def _own_error(params: QuantParams, moments: Moments) -> float:
    single = QuantParams(scheme=params.scheme, scale=params.scale.reshape(1), zero_point=params.zero_point.reshape(1))
    return float(expected_error(moments, single).total[0])


class _Weight:
    """A weight as a method would round it to nearest."""

    def __init__(self, reader: Reader) -> None:
        assert reader.slot is not None
        assert reader.scheme is not None
        self._reader, self._slot, self._scheme = reader, reader.slot, reader.scheme
        tensor = moved_tensor(_value(reader))
        assert tensor is not None
        self._array = np.asarray(tensor.numpy(), np.float32)
        self._params = params_from_range(*weight_range(self._array, self._scheme), self._scheme)
        self._codes = quantize(self._array, self._params)
        self._squares = float(np.square(self._array, dtype=np.float64).sum())

    def error(self, largest: int, pairs: Pairs) -> float:
        """Return the squared error of the weights relative to their squares, activation codes going up to `largest`."""
        limit = pairs.of(self._reader.entry, self._slot, self._scheme, largest)
        params = self._params
        if limit is not None:
            _, params = fit_pairs(self._array, self._codes, params, limit.axes, limit.limit)
        if self._squares == 0:
            return 0.0
        granularity = self._scheme.granularity
        scales = 1 if isinstance(granularity, PerTensor) else parameter_shape(self._array.shape, granularity)[0]
        return float(np.square(params.scale, dtype=np.float64).sum()) / 12 * self._array.size / scales / self._squares


def _value(reader: Reader) -> ir.Value | None:
    assert reader.slot is not None
    return reader.entry.node.inputs[reader.slot]


class Pairs:
    """The limits of weights on a target."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def of(self, entry: Candidate, slot: int, scheme: Scheme, largest: int | None = None) -> PairLimit | None:
        """Return the limit of a weight whose activations have codes up to `largest`, None if it needs none."""
        if not entry.row.pairs or entry.node.inputs[slot] is None:
            return None
        running = entry.request.activations.dtype
        product = product_of(entry.node, slot, fmt=entry.request.format, activations=running, weights=scheme.dtype)
        return self._target.pair_limit(product, largest)
