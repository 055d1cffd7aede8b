"""The Pareto front: which units return to float first, as error and cost say that were measured on each of them alone.

The errors of units add up, nearly, in power. So the cheapest model within an error is a knapsack with several choices
for each unit; where quantized neighbours save conversions between them, it is a cut as well. For a price of error
lambda the model of least cost + lambda * noise is a minimum cut, found exactly (`onnxq.numerics.min_cut`), and without
conversions just the best option of every unit. From lambda = 0 to where everything is in float these models are those
on the convex hull of all (cost, noise): Everett 1963, Generalized Lagrange Multiplier Method.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxq.numerics.min_cut import CutNode, Flow, choose

# Prices to try besides those at which a single unit changes; conversions shift these.
_PRICES = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """A way that a unit can go.

    Attributes:
        way: which.
        cost: against float, in any unit of measure.
        noise: that it brings, in power over the signal's.
        codes: whether it reads and writes codes, so that conversions lie between it and what does not.
    """

    way: int
    cost: float
    noise: float
    codes: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """A tensor between units: the cost of converting it to codes and back, where its readers are not as its maker is.

    `producer` is None for what no unit makes; `float_reader`: whether anything else reads it, as float.
    """

    producer: int | None
    consumers: tuple[int, ...]
    float_reader: bool
    quantize: float
    dequantize: float


def pareto_front(
    units: Sequence[Sequence[Option]], conversions: Sequence[Conversion] = ()
) -> tuple[tuple[int, ...], ...]:
    """Return models, as the way of each unit, from the cheapest to the one of least noise, each of less than before.

    Args:
        units: the options of each, that of float with cost 0 and noise 0 among them.
        conversions: tensors between them.
    """
    models = [best(units, conversions, price) for price in _prices(units)]
    models.append(tuple(min(options, key=lambda option: (option.noise, option.cost)).way for options in units))
    return tuple(dict.fromkeys(models))


def best(units: Sequence[Sequence[Option]], conversions: Sequence[Conversion], price: float) -> tuple[int, ...]:
    """Return the ways of least cost where noise has a price."""

    def cheapest(options: Iterable[Option]) -> tuple[float, float, int]:
        """Return cost with noise, noise, and way."""
        return min(
            ((each.cost + price * each.noise, each.noise, each.way) for each in options if math.isfinite(each.noise)),
            default=(math.inf, math.inf, 0),
        )

    float_side = [cheapest(each for each in options if not each.codes) for options in units]
    codes_side = [cheapest(each for each in options if each.codes) for options in units]
    if not conversions:
        return tuple(min(pair)[2] for pair in zip(float_side, codes_side, strict=True))
    # A difference that outweighs all others together settles a unit, and would only cost resolution.
    most = sum(each.quantize + each.dequantize for each in conversions) + max(
        (abs(option.cost) for options in units for option in options), default=0.0
    )
    items = {}
    for unit, (in_float, on_codes) in enumerate(zip(float_side, codes_side, strict=True)):
        difference = min(max(on_codes[0] - in_float[0], -most), most)
        items[str(unit)] = CutNode(
            side=False if math.isinf(on_codes[0]) else None,
            float_cost=max(-difference, 0.0),
            codes_cost=max(difference, 0.0),
        )
    flows = [
        Flow(
            producer=None if each.producer is None else str(each.producer),
            consumers=tuple(map(str, each.consumers)),
            float_reader=each.float_reader,
            quantize=each.quantize,
            dequantize=each.dequantize,
        )
        for each in conversions
    ]
    codes = choose(items, flows)
    return tuple(
        (on_codes if str(unit) in codes else in_float)[2]
        for unit, (in_float, on_codes) in enumerate(zip(float_side, codes_side, strict=True))
    )


def hull(options: Sequence[Option]) -> tuple[Option, ...]:
    """Return the options on the lower convex hull, the cheapest first; each costs more than the last and errs less."""
    ordered = sorted((each for each in options if math.isfinite(each.noise)), key=lambda each: (each.cost, each.noise))
    kept: list[Option] = []
    for option in ordered:
        if kept and option.noise >= kept[-1].noise:
            continue
        while len(kept) > 1 and _price(kept[-2], kept[-1]) >= _price(kept[-2], option):
            kept.pop()
        kept.append(option)
    return tuple(kept)


def _prices(units: Sequence[Sequence[Option]]) -> list[float]:
    """Return 0 and prices of noise in rising order, between every two of those at which a unit changes its way."""
    changes = sorted(
        {_price(one, other) for options in units for one, other in itertools.pairwise(hull(options))} - {0.0}
    )
    if not changes:
        return [0.0]
    between = [(one * other) ** 0.5 for one, other in itertools.pairwise(changes)]
    low, high = changes[0] / 10, changes[-1] * 10
    even = [low * (high / low) ** (step / (_PRICES - 1)) for step in range(_PRICES)]
    return [0.0, *sorted({*between, *even})]


def _price(cheap: Option, good: Option) -> float:
    """Return the price of noise at which two options cost the same."""
    return (good.cost - cheap.cost) / (cheap.noise - good.noise)
