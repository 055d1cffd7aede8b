"""The front: models of least cost for their noise, against trying everything."""

import itertools
import math

import numpy as np
import pytest
from onnxq.numerics.min_cut import Flow, cost
from onnxq.tuning.search.pareto import Conversion, Option, best, hull, pareto_front


def options(*pairs, codes=False):
    """Float, and what costs and errs as said."""
    return [
        Option(way=way - 1, cost=cost, noise=noise, codes=codes and way > 0)
        for way, (cost, noise) in enumerate([(0.0, 0.0), *pairs])
    ]


def test_what_costs_more_and_errs_more_is_no_choice():
    assert [each.way for each in hull(options((-3, 3), (-2, 5), (-2, 1)))] == [0, 2, -1]


def test_what_lies_above_the_line_between_two_others_is_no_choice():
    assert [each.way for each in hull(options((-4, 4), (-2, 3)))] == [0, -1]


def test_what_breaks_the_model_is_no_choice():
    assert pareto_front([options((-1, math.inf))]) == ((-1,),)


def test_what_does_not_pay_stays_in_float():
    assert pareto_front([options((0.5, 0.1)), options((-1, 0.1))]) == ((-1, 0), (-1, -1))


@pytest.mark.parametrize("seed", range(5))
def test_every_model_is_the_cheapest_for_its_noise(seed):
    """Of all 4^5 models, none with as little noise costs less."""
    rng = np.random.default_rng(seed)
    units = [options(*zip(-10 * rng.random(3), rng.random(3), strict=True)) for _ in range(5)]

    def total(ways):
        chosen = [unit[way + 1] for unit, way in zip(units, ways, strict=True)]
        return sum(each.cost for each in chosen), sum(each.noise for each in chosen)

    models = pareto_front(units)
    points = [total(ways) for ways in models]
    every = [total(ways) for ways in itertools.product(range(-1, 3), repeat=5)]
    for spent, noise in points:
        assert min(other for other, others_noise in every if others_noise <= noise + 1e-12) >= spent - 1e-9
    noises = [noise for _, noise in points]
    assert noises == sorted(noises, reverse=True)
    assert len(models) > 5
    assert models[-1] == (-1,) * 5


@pytest.mark.parametrize("seed", range(5))
def test_conversions_between_neighbours_count(seed):
    """A chain of six: for every price the cut is the best of all 3^6 models."""
    rng = np.random.default_rng(seed)
    units = [
        [*options((-4 * rng.random(), rng.random()), codes=True), Option(way=1, cost=-rng.random(), noise=rng.random())]
        for _ in range(6)
    ]
    conversions = [
        Conversion(
            producer=unit - 1 if unit else None, consumers=(unit,), float_reader=False, quantize=0.7, dequantize=0.4
        )
        for unit in range(6)
    ]

    def total(ways, price):
        chosen = [unit[way + 1] for unit, way in zip(units, ways, strict=True)]
        flows = [
            Flow(
                producer=None if each.producer is None else str(each.producer),
                consumers=tuple(map(str, each.consumers)),
                float_reader=False,
                quantize=0.7,
                dequantize=0.4,
            )
            for each in conversions
        ]
        codes = {str(unit) for unit, way in enumerate(ways) if way == 0}
        return sum(each.cost + price * each.noise for each in chosen) + cost({}, flows, codes)

    for price in (0.0, 1.0, 3.0, 10.0):
        least = min(total(ways, price) for ways in itertools.product((-1, 0, 1), repeat=6))
        assert total(best(units, conversions, price), price) == pytest.approx(least, abs=1e-3)
