"""Budget: the error and the loss that the user allows, and how far a model is from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from onnxq.errors import RecipeError
from onnxq.types.amount import Amount, allowed
from onnxq.types.recipe import Recipe
from onnxq.types.report import MetricResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What a recipe allows; None where it does not say.

    Attributes:
        min_sqnr: dB that every output reaches as served.
        max_drop: of a metric of which more is better.
        max_ppl_increase: of perplexity.
    """

    min_sqnr: float | None = None
    max_drop: Amount | None = None
    max_ppl_increase: Amount | None = None

    @classmethod
    def of(cls, recipe: Recipe) -> Budget:
        """Return the budget of a recipe.

        Raises:
            RecipeError: a limit of perplexity beside another metric.
        """
        if recipe.max_ppl_increase is not None and (recipe.metric is not None or recipe.max_drop is not None):
            raise RecipeError(
                "max_ppl_increase judges by perplexity, metric and max_drop by another figure; give one of the two"
            )
        return cls(min_sqnr=recipe.min_sqnr, max_drop=recipe.max_drop, max_ppl_increase=recipe.max_ppl_increase)

    def __bool__(self) -> bool:
        """Whether anything is limited."""
        return self.min_sqnr is not None or self.by_metric

    @property
    def by_metric(self) -> bool:
        """Whether a metric is limited."""
        return self.max_drop is not None or self.max_ppl_increase is not None

    def __str__(self) -> str:
        """In words."""
        parts = [f"every output at least {self.min_sqnr:g} dB"] if self.min_sqnr is not None else []
        parts += [f"the metric at most {_shown(self.max_drop)} lower"] if self.max_drop is not None else []
        if self.max_ppl_increase is not None:
            parts.append(f"perplexity at most {_shown(self.max_ppl_increase)} higher")
        return ", ".join(parts) or "no limit"

    def shortfall(self, outputs: Mapping[str, float], metric: MetricResult | None) -> str | None:
        """Return in words how a model falls short of the budget, None if it does not.

        Args:
            outputs: dB of each output as served.
            metric: of both models; None where there is none.

        Raises:
            RecipeError: a metric is limited, and there is none.
        """
        if self.min_sqnr is not None:
            for name in sorted(outputs, key=lambda name: _height(outputs[name])):
                noisy = too_noisy(name, outputs[name], self.min_sqnr)
                if noisy is not None:
                    return noisy
        return self._worse(metric)

    def excess(self, outputs: Mapping[str, float], metric: MetricResult | None) -> float:
        """Return how far a model is beyond the budget: at most 0 within it, and more the farther off it is.

        1 for a metric that loses twice of what is allowed, and for outputs of twice the noise (3 dB).
        """
        excesses = [-math.inf]
        if self.min_sqnr is not None:
            excesses += [10 ** ((self.min_sqnr - _height(value)) / 10) - 1 for value in outputs.values()]
        if metric is not None and self.by_metric:
            lost, most = self._lost(metric)
            excesses.append(
                math.inf if math.isnan(lost) else (lost - most) / max(most, 1e-3 * abs(metric.float_value), 1e-9)
            )
        return max(excesses)

    def _worse(self, metric: MetricResult | None) -> str | None:
        if not self.by_metric:
            return None
        if metric is None:
            raise RecipeError("max_drop needs a figure that may drop: give a metric, or evaluation data with labels")
        lost, most = self._lost(metric)
        if lost <= most:
            return None
        how = "falls" if self.max_drop is not None else "rises"
        change = f"{metric.name} {how} from {metric.float_value:.5g} to {metric.quantized_value:.5g}"
        amount = self.max_drop if self.max_drop is not None else self.max_ppl_increase
        share = f" ({amount})" if isinstance(amount, str) else ""
        return f"{change}, by more than the {most:.3g}{share} allowed"

    def _lost(self, metric: MetricResult) -> tuple[float, float]:
        """Return by how much the metric got worse, and by how much it may."""
        change = metric.quantized_value - metric.float_value
        if self.max_drop is not None:
            return -change, allowed(self.max_drop, metric.float_value)
        assert self.max_ppl_increase is not None
        return change, allowed(self.max_ppl_increase, metric.float_value)


def too_noisy(output: str, sqnr: float, least: float) -> str | None:
    """Return in words how far an output is off, None if it reaches `least` dB as served; NaN does not."""
    if sqnr >= least:
        return None
    return f"output '{output}' is {sqnr:.1f} dB as served, below the {least:g} dB asked for"


def _height(sqnr: float) -> float:
    return -math.inf if math.isnan(sqnr) else sqnr


def _shown(amount: Amount | None) -> str:
    return amount if isinstance(amount, str) else f"{amount:g}"
