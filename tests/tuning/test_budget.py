"""Budgets: when a model is within, and how far others are beyond."""

import math

import pytest
from onnxq.errors import RecipeError
from onnxq.tuning.budget import Budget
from onnxq.types.recipe import Recipe
from onnxq.types.report import MetricResult


def scored(before, after, name="accuracy"):
    return MetricResult(name=name, float_value=before, quantized_value=after)


def test_the_worst_output_is_named():
    budget = Budget.of(Recipe(min_sqnr=20))
    assert budget.shortfall({"a": 20.0, "b": math.inf}, None) is None
    assert (
        budget.shortfall({"a": 19.0, "b": 12.0}, None) == "output 'b' is 12.0 dB as served, below the 20 dB asked for"
    )
    assert "'c'" in (budget.shortfall({"a": 30.0, "c": math.nan}, None) or "")


def test_a_share_is_of_the_float_models_figure():
    budget = Budget.of(Recipe(max_drop="0.5%"))
    assert budget.shortfall({}, scored(0.9, 0.8956)) is None
    text = budget.shortfall({}, scored(0.9, 0.895))
    assert text == "accuracy falls from 0.9 to 0.895, by more than the 0.0045 (0.5%) allowed"


def test_of_perplexity_less_is_better():
    budget = Budget.of(Recipe(max_ppl_increase=0.5))
    assert budget.shortfall({}, scored(30.0, 20.0, "perplexity")) is None
    assert "rises from 30 to 30.6" in (budget.shortfall({}, scored(30.0, 30.6, "perplexity")) or "")


def test_a_figure_that_is_nan_is_beyond_every_budget():
    budget = Budget.of(Recipe(max_drop=1e9))
    assert budget.shortfall({}, scored(0.9, math.nan)) is not None
    assert budget.excess({}, scored(0.9, math.nan)) == math.inf


def test_excess_orders_what_is_beyond():
    budget = Budget.of(Recipe(min_sqnr=20, max_drop="1%"))
    within = budget.excess({"y": 25.0}, scored(0.9, 0.9))
    little = budget.excess({"y": 19.0}, scored(0.9, 0.9))
    more = budget.excess({"y": 19.0}, scored(0.9, 0.5))
    assert within < 0 < little < more
    assert budget.excess({"y": 20.0 - 10 * math.log10(2)}, scored(0.9, 0.9)) == pytest.approx(1.0)


def test_a_limited_drop_of_nothing():
    with pytest.raises(RecipeError, match="give a metric, or evaluation data with labels"):
        Budget.of(Recipe(max_drop=0.1)).shortfall({}, None)


def test_two_metrics_at_once():
    with pytest.raises(RecipeError, match="give one of the two"):
        Budget.of(Recipe(max_ppl_increase="1%", metric="a:b"))
