"""Judging: models against the limits of the recipe, on the evaluation data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxq.data import Source, open_source, signature
from onnxq.errors import VerificationError
from onnxq.evaluate.metric import Metric, load_metric
from onnxq.evaluate.perplexity import Perplexity
from onnxq.evaluate.served import Served
from onnxq.evaluate.verify import timed_batch, verify
from onnxq.pipeline.log import Log
from onnxq.pipeline.preparing import PreparedModel
from onnxq.pipeline.request import Data, Request
from onnxq.progress import Silent
from onnxq.runtime.session import CPU, available_providers, versions
from onnxq.runtime.stopwatch import Stopwatch
from onnxq.stages.plan import Sizes
from onnxq.targets.processor import is_here
from onnxq.tuning.budget import Budget
from onnxq.tuning.draft import Draft, Make
from onnxq.tuning.guard import guard
from onnxq.tuning.limits import Limits
from onnxq.tuning.search import Search
from onnxq.tuning.search.checkpoint import SearchCheckpoint, checkpoint_key
from onnxq.tuning.search.conversions import ConversionTimes
from onnxq.types.guarding import Guarding, Verdict
from onnxq.types.plan import Plan
from onnxq.types.report import Latency, Verification
from onnxq.types.searching import Searching
from onnxq.types.statistics import Statistics

if TYPE_CHECKING:
    import onnx_ir as ir

# Beyond what the short clock of verify may be wrong by.
_SLOWER = 0.95

NEIGHBOUR = "evaluation.npz"
"""Evaluation data that is found by itself: a file of this name beside the calibration file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationData:
    """The data to judge models on, opened when they are first needed.

    Attributes:
        request: the call.
        given: data that the caller gave, over those that the recipe names.
        statistics_file: of statistics given in place of calibration data, beside which evaluation data may lie.
    """

    request: Request
    given: Data | None
    statistics_file: Path | None = None

    @cached_property
    def source(self) -> Source:
        """The data: what was given, named, or found beside the calibration data, or these.

        Raises:
            CalibrationError: data that cannot be opened.
        """
        recipe = self.request.recipe
        data: Any = self.given if self.given is not None else recipe.evaluation
        near = recipe.calibration or self.statistics_file
        if data is None and near is not None and Path(near).with_name(NEIGHBOUR).is_file():
            data = Path(near).with_name(NEIGHBOUR)
        if data is None:
            return self.request.calibration.source
        return open_source(data, signature(self.request.model), batch_size=recipe.batch_size)

    def open(self) -> None:
        """Open the data; raises CalibrationError where that fails."""
        _ = self.source

    @property
    def metric(self) -> Metric | None:
        """What the recipe wants models to be scored by, None for nothing."""
        recipe = self.request.recipe
        if recipe.max_ppl_increase is not None:
            return Perplexity(self.source, signature(self.request.model))
        return None if recipe.metric is None else load_metric(recipe.metric)


def verified(
    data: EvaluationData, quantized: ir.Model, plan: Plan, log: Log, *, prepared: ir.Model | None = None
) -> Verification:
    """Compare a quantized model with the request's.

    Args:
        data: to run both on.
        quantized: what was made of the model.
        plan: for errors of single tensors.
        log: takes the time.
        prepared: the model in normal form, None where only a finished model is compared.
    """
    request = data.request
    with log.timed("verify"):
        verification = verify(
            request.model,
            quantized,
            data.source,
            plan,
            reference=prepared,
            threads=request.recipe.serving[0],
            metric=data.metric,
            progress=log.progress,
        )
    if request.target.provider in CPU:
        slower = () if request.recipe.guard or not is_here(request.target) else _slower(verification.latency)
        return replace(verification, warnings=(*verification.warnings, *slower))
    elsewhere = f"compared and timed on {CPU[0]}, not on {request.target.provider}, where the model will be served"
    return replace(verification, warnings=(*verification.warnings, elsewhere))


def _slower(latency: Latency | None) -> tuple[str, ...]:
    """Return a warning if the clock of verify says that a model is slower than float, which no guard acted upon."""
    if latency is None or latency.speedup >= _SLOWER:
        return ()
    figures = f"{latency.quantized_ms:.3g} ms, float {latency.float_ms:.3g} ms"
    return (
        f"slower than float: {latency.speedup:.2f}x ({figures}), and kept, since the guard is off; with the guard "
        "(leave out --no-guard, or guard=False) what loses time stays in float",
    )


class Judge:
    """Judges drafts of a prepared model.

    Attributes:
        prepared: the model. data: to judge on. log: takes warnings and times.
    """

    def __init__(self, prepared: PreparedModel, data: EvaluationData, log: Log) -> None:
        """Take what was given; nothing is opened before it is needed."""
        self.prepared = prepared
        self.data = data
        self.log = log
        self._limits: Limits | None = None

    def guard(self, draft: Draft, make: Make) -> tuple[Draft, Guarding]:
        """Return the best draft between the one given and the float model, and what was done; see `guard`."""
        recipe, target = self.prepared.recipe, self.prepared.target
        with self.log.timed_as_one("guard"):
            result, guarding = guard(
                draft,
                make,
                original=self.prepared.base,
                prepared=self.prepared.model,
                threads=recipe.serving,
                prefer=recipe.prefer,
                read_back=target.provider in CPU,
                quality=(self._limits or self.limits()) if Budget.of(recipe) else None,
                fidelity=self._served(),
                measure=self.stopwatch(),
            )
        if guarding.verdict is not Verdict.KEPT:
            self.log.warn(guarding.message)
        return result, guarding

    def search(
        self, statistics: Statistics, make: Make, file: Path | None
    ) -> tuple[Draft, Searching, SearchCheckpoint]:
        """Return the best draft within the budget, else the nearest to it; with what was tried, and the checkpoint.

        Args:
            statistics: of the prepared model. make: drafts recipes. file: of the checkpoint.
        """
        with self.log.timed("search"):
            limits = self._limits = self.limits()
            checkpoint = SearchCheckpoint(
                file, checkpoint_key(self.prepared.recipe, statistics, self.data.source, versions())
            )
            search = Search(
                recipe=self.prepared.recipe,
                choices=self.prepared.choices,
                original=self.prepared.base,
                prepared=self.prepared.model,
                make=make,
                limits=limits,
                measure=self.stopwatch(),
                checkpoint=checkpoint,
                conversion_times=ConversionTimes(sizes=Sizes(statistics), timing=self.prepared.target.timing),
                progress=self.log.progress or Silent(),
            )
            draft, searching = search.run()
        return draft, searching, checkpoint

    def limits(self, **options: Any) -> Limits:
        """Return what judges models by the recipe's budget, on the evaluation data; options as for `Limits`.

        Raises:
            VerificationError: the float model itself is not within the budget, so that no other can be expected to be.
        """
        budget = Budget.of(self.prepared.recipe)
        limits = Limits(
            self.prepared.base,
            self.prepared.model,
            self.data.source,
            budget=budget,
            metric=self.data.metric,
            threads=self.prepared.recipe.serving[0],
            **options,
        )
        missed = limits.shortfall(self.prepared.base)
        if missed is not None:
            text = f"the float model itself is not within the limits: {missed}"
            raise VerificationError(
                f"{text}; no quantized model can be expected to be, ask for less; nothing was written"
            )
        return limits

    def _served(self) -> Served | None:
        """Return what tells how models are served against what their graphs say, on some evaluation data.

        None where they are served on another kind of processor than this one: what kernels do there is not seen here.
        """
        if self.prepared.target.provider not in CPU or not is_here(self.prepared.target):
            return None
        return Served(self.prepared.base, self.data.source, threads=self.prepared.recipe.serving[0])

    def stopwatch(self) -> Stopwatch | None:
        """Return what times models on data, None where the model is not served on this machine."""
        if self.prepared.target.provider not in available_providers():
            return None
        providers = tuple(dict.fromkeys((self.prepared.target.provider, *CPU)))
        return Stopwatch(timed_batch(self.data.source).feeds, names=self.prepared.model, providers=providers)
