"""Limits: a quantized model, as served, against the error and the loss in the metric that the user allows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxq.data.source import Source
from onnxq.evaluate.comparison import Reference, compare_outputs
from onnxq.evaluate.metric import Metric, accuracy, name_of, score_one
from onnxq.evaluate.tensors import tensor_errors
from onnxq.evaluate.verify import MAX_SAMPLES, TENSOR_SAMPLES
from onnxq.progress import Silent
from onnxq.runtime.session import Session, open_session
from onnxq.tuning.budget import Budget
from onnxq.tuning.draft import Draft
from onnxq.types.report import MetricResult

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What a model reaches as served.

    Attributes:
        outputs: dB of each output against the float model.
        metric: of both models, None where nothing was scored.
    """

    outputs: Mapping[str, float]
    metric: MetricResult | None = None

    @property
    def sqnr(self) -> float:
        """dB of the worst output."""
        return min((-math.inf if math.isnan(value) else value for value in self.outputs.values()), default=math.inf)


class Limits:
    """Judges models by what the user allows.

    `budget` is what that is, `samples` how many are compared at most, `data` where they come from, in words.
    """

    def __init__(
        self,
        original: ir.Model,
        prepared: ir.Model,
        source: Source,
        *,
        budget: Budget,
        metric: Metric | None,
        threads: int,
        samples: int = MAX_SAMPLES,
    ) -> None:
        """Make limits.

        Args:
            original: the float model.
            prepared: its normal form.
            source: evaluation data, read again for each model.
            budget: what is allowed.
            metric: the user's; None: accuracy by the data's labels.
            threads: intra-op threads.
            samples: to compare outputs on; a metric sees all.
        """
        self.budget = budget
        self._original, self._prepared, self._source = original, prepared, source
        self._metric, self._threads = metric, threads
        self._reference = Reference(original, source.head(samples), threads=threads)
        self.samples, self.data = (
            samples if source.samples is None else min(samples, source.samples),
            source.description,
        )
        self._served = open_session(original, threads=threads)
        self._float_value: float | None = None
        self._float_metric: tuple[str, float] | None = None

    @property
    def scores(self) -> bool:
        """Whether there is a metric to score models with."""
        return self.budget.by_metric or self._metric is not None

    @property
    def float_metric(self) -> tuple[str, float] | None:
        """Name and value of the float model's metric, None where nothing is scored."""
        if not self.scores:
            return None
        if self._float_metric is None:
            result = self._scored(self._served)
            self._float_metric = None if result is None else (result.name, result.float_value)
        return self._float_metric

    def shortfall(self, model: ir.Model) -> str | None:
        """Return in words how a model, as served, falls short of the budget, None if it does not.

        Raises:
            RecipeError: the metric fails, or a drop is limited and there is neither metric nor labels.
        """
        figures = self.figures(model, compare=self.budget.min_sqnr is not None, metric=self.budget.by_metric)
        return self.budget.shortfall(figures.outputs, figures.metric)

    def figures(
        self, model: ir.Model, *, compare: bool = True, metric: bool = True, samples: int | None = None
    ) -> Figures:
        """Return what a model reaches as served; `compare` its outputs, score its `metric` (or accuracy).

        Args:
            model: to judge.
            compare: its outputs, on no more than `samples`.
            metric: score it, or its accuracy.
            samples: None for as many as the limits have.

        Raises:
            RecipeError: the metric fails; on a quantized model it may return NaN, which no budget allows.
        """
        session = open_session(model, threads=self._threads)
        return Figures(
            outputs=self._outputs(session, samples or self.samples) if compare else {},
            metric=self._scored(session) if metric else None,
        )

    def _outputs(self, session: Session, samples: int) -> Mapping[str, float]:
        sums, _ = compare_outputs(self._reference, (session.run,), max_samples=samples)
        return {name: entry.errors[0].sqnr_db if entry.is_float else math.inf for name, entry in sums.items()}

    def _scored(self, session: Session) -> MetricResult | None:
        if self._metric is None:
            result, _ = accuracy(self._served, session, self._source, Silent())
            return result
        if self._float_value is None:
            self._float_value = score_one(self._metric, self._served, "float")
        return MetricResult(
            name=name_of(self._metric),
            float_value=self._float_value,
            quantized_value=score_one(self._metric, session, "quantized", strict=False),
        )

    def noise(self, draft: Draft) -> Mapping[str, float]:
        """Return noise over signal, in power, of each quantized node's output, optimizer off."""
        errors = tensor_errors(
            self._prepared,
            draft.model,
            self._source.head(TENSOR_SAMPLES),
            draft.plan,
            threads=self._threads,
            progress=Silent(),
        )
        worst: dict[str, float] = {}
        for error in errors:
            noise = math.inf if math.isnan(error.sqnr) else 10 ** (-error.sqnr / 10)
            worst[error.node] = max(worst.get(error.node, 0.0), noise)
        return worst
