"""Limits: a quantized model, as served, against the error and the loss in the metric that the user allows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from onnxq.data.source import Source
from onnxq.errors import RecipeError
from onnxq.numerics.metrics import Comparison
from onnxq.runtime.session import open_session
from onnxq.stages.draft import Draft
from onnxq.stages.progress import Silent
from onnxq.stages.verify import MAX_SAMPLES, TENSOR_SAMPLES
from onnxq.stages.verify_metric import Metric, accuracy, score
from onnxq.stages.verify_tensors import tensor_errors
from onnxq.types.report import MetricResult

if TYPE_CHECKING:
    import onnx_ir as ir


class Limits:
    """What the user allows: every output at least `min_sqnr` dB, the metric at most `max_drop` lower."""

    def __init__(
        self,
        original: ir.Model,
        prepared: ir.Model,
        source: Source,
        *,
        min_sqnr: float | None,
        max_drop: float | None,
        metric: Metric | None,
        threads: int,
    ) -> None:
        """Make limits.

        Args:
            original: the float model. prepared: its normal form. source: evaluation data, read again for each model.
            min_sqnr, max_drop: None for no such limit. metric: the user's; None: accuracy by the data's labels.
            threads: intra-op threads.
        """
        self._original, self._prepared, self._source = original, prepared, source
        self._min_sqnr, self._max_drop, self._metric, self._threads = min_sqnr, max_drop, metric, threads
        self._expected = open_session(original, optimize=False, threads=threads)
        self._served = open_session(original, threads=threads)

    def shortfall(self, model: ir.Model) -> str | None:
        """Return in words how a model, as served, falls short of what was asked, None if it does not.

        Raises:
            RecipeError: the metric fails, or a drop is limited and there is neither metric nor labels.
        """
        session = open_session(model, threads=self._threads)
        if self._min_sqnr is not None:
            sums = {name: Comparison() for name in self._expected.outputs}
            for batch in self._source.head(MAX_SAMPLES).batches():
                expected, found = self._expected.run(batch.feeds), session.run(batch.feeds)
                for name, entry in sums.items():
                    if np.asarray(expected[name]).dtype.kind in "fV":
                        entry.add(expected[name], found[name])
            by_error = {name: entry.sqnr_db for name, entry in sums.items()}
            name = min(by_error, key=lambda name: -math.inf if math.isnan(by_error[name]) else by_error[name])
            noisy = too_noisy(name, by_error[name], self._min_sqnr)
            if noisy is not None:
                return noisy
        if self._max_drop is not None:
            if self._metric is not None:
                result: MetricResult | None = score(self._metric, self._served, session)
            else:
                result, _ = accuracy(self._served, session, self._source, Silent())
            return dropped(result, self._max_drop)
        return None

    def noise(self, draft: Draft) -> Mapping[str, float]:
        """Return noise over signal, in power, of each quantized node's output, optimizer off."""
        found = tensor_errors(
            self._prepared,
            draft.model,
            self._source.head(TENSOR_SAMPLES),
            draft.plan,
            threads=self._threads,
            progress=Silent(),
        )
        worst: dict[str, float] = {}
        for error in found:
            noise = math.inf if math.isnan(error.sqnr) else 10 ** (-error.sqnr / 10)
            worst[error.node] = max(worst.get(error.node, 0.0), noise)
        return worst


def too_noisy(output: str, sqnr: float, least: float) -> str | None:
    """Return in words how far an output is off, None if it reaches `least` dB as served; NaN does not."""
    if sqnr >= least:
        return None
    return f"output '{output}' is {sqnr:.1f} dB as served, below the {least:g} dB asked for"


def dropped(result: MetricResult | None, most: float) -> str | None:
    """Return in words by how much a metric fell, None if that is no more than `most`.

    Raises:
        RecipeError: there is no metric.
    """
    if result is None:
        raise RecipeError("max_drop needs a figure that may drop: give a metric, or evaluation data with labels")
    drop = result.float_value - result.quantized_value
    if drop <= most:
        return None
    change = f"{result.name} falls from {result.float_value:.5g} to {result.quantized_value:.5g}"
    return f"{change}, by more than the {most:g} allowed"
