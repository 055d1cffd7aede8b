import itertools
import random

import pytest
from onnxq.numerics.min_cut import CutNode, Flow, choose, cost


def _random_problem(seed):
    """A chain of up to 8 items with random costs, tensors between earlier and later ones, and some implications."""
    rng = random.Random(seed)
    names = [f"n{index}" for index in range(rng.randint(1, 8))]
    items = {
        name: CutNode(
            side=rng.choice([None, None, None, True, False]),
            float_cost=rng.randint(0, 9),
            codes_cost=rng.randint(0, 9),
        )
        for name in names
    }
    flows = []
    for index in range(-1, len(names)):
        later = names[index + 1 :]
        flows.append(
            Flow(
                producer=None if index < 0 else names[index],
                consumers=tuple(rng.sample(later, rng.randint(0, min(3, len(later))))),
                float_reader=rng.random() < 0.3,
                quantize=rng.randint(0, 9),
                dequantize=rng.randint(0, 9),
                free_float=rng.random() < 0.3,
            )
        )
    free = [name for name in names if items[name].side is None]
    implies = [(late, early) for early, late in itertools.combinations(free, 2) if rng.random() < 0.1]
    return items, flows, implies


def _allowed(items, implies, codes):
    settled = all(item.side is None or item.side == (name in codes) for name, item in items.items())
    return settled and all(second in codes for first, second in implies if first in codes)


def test_the_cheapest_of_all_assignments_is_found():
    for seed in range(150):
        items, flows, implies = _random_problem(seed)
        subsets = itertools.chain.from_iterable(itertools.combinations(items, size) for size in range(len(items) + 1))
        best = min(cost(items, flows, codes) for codes in subsets if _allowed(items, implies, codes))
        chosen = choose(items, flows, implies)
        assert _allowed(items, implies, chosen), seed
        assert cost(items, flows, chosen) == pytest.approx(best), seed


def test_a_tie_stays_in_float():
    items = {"add": CutNode(side=None, float_cost=1.0, codes_cost=1.0)}
    assert choose(items, []) == frozenset()


def test_an_island_pays_only_together():
    """Two sums between two convolutions: alone each costs more than it saves, together they save the conversions."""
    items = {
        "conv": CutNode(side=True),
        "a": CutNode(side=None, float_cost=1.0, codes_cost=1.1),
        "b": CutNode(side=None, float_cost=1.0, codes_cost=1.1),
        "last": CutNode(side=True),
    }

    def chain(conversion):
        return [
            Flow(producer=one, consumers=(two,), float_reader=False, quantize=conversion, dequantize=conversion)
            for one, two in itertools.pairwise(items)
        ]

    assert choose(items, chain(1.0)) == frozenset(items)
    assert choose(items, chain(0.05)) == {"conv", "last"}


def test_no_items():
    assert choose({}, []) == frozenset()
