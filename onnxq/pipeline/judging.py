"""Judging: what is asked of drafts and models, on the evaluation data."""

from __future__ import annotations

from dataclasses import replace
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
from onnxq.targets import Target
from onnxq.targets.processor import is_here
from onnxq.tuning.budget import Budget
from onnxq.tuning.draft import Draft, Make
from onnxq.tuning.guard import guard
from onnxq.tuning.limits import Limits
from onnxq.tuning.search import Search
from onnxq.tuning.search.checkpoint import Checkpoint, checkpoint_key
from onnxq.tuning.search.conversions import ConversionTimes
from onnxq.types.guarding import Guarding, Verdict
from onnxq.types.plan import Plan
from onnxq.types.recipe import Recipe
from onnxq.types.report import Verification
from onnxq.types.searching import Searching
from onnxq.types.statistics import Statistics

if TYPE_CHECKING:
    import onnx_ir as ir

NEIGHBOUR = "evaluation.npz"
"""Evaluation data that is found by itself: a file of this name beside the calibration file."""


class Judge:
    """Judges what a call makes of its model.

    Attributes:
        request: the call. prepared: its model, None where a finished model is only compared.
        log: takes warnings and times.
    """

    def __init__(
        self,
        request: Request,
        prepared: PreparedModel | None,
        evaluation: Data | None,
        log: Log,
        *,
        statistics_file: Path | None = None,
    ) -> None:
        """Take what was given; nothing is opened before it is needed.

        `statistics_file`: of statistics given in place of calibration data, beside which evaluation data may lie.
        """
        self.request = request
        self.prepared = prepared
        self.log = log
        self._evaluation = evaluation
        self._statistics_file = statistics_file
        self._limits: Limits | None = None

    @property
    def recipe(self) -> Recipe:
        """What is wanted."""
        return self.request.recipe if self.prepared is None else self.prepared.recipe

    @property
    def base(self) -> ir.Model:
        """The float model, or what conversion made of an imported one."""
        return self.request.model if self.prepared is None else self.prepared.base

    @property
    def target(self) -> Target:
        """Where the model will be served."""
        return self.request.target if self.prepared is None else self.prepared.target

    @cached_property
    def samples(self) -> Source:
        """The data to judge models on: what was given, named, or found beside the calibration data, or that.

        Raises:
            CalibrationError: data that cannot be opened.
        """
        data: Any = self._evaluation if self._evaluation is not None else self.recipe.evaluation
        near = self.recipe.calibration or self._statistics_file
        if data is None and near is not None and Path(near).with_name(NEIGHBOUR).is_file():
            data = Path(near).with_name(NEIGHBOUR)
        if data is None:
            return self.request.calibration.source
        return open_source(data, signature(self.base), batch_size=self.recipe.batch_size)

    def open(self) -> None:
        """Open the data to judge models on; raises CalibrationError where that fails."""
        _ = self.samples

    def guard(self, draft: Draft, make: Make) -> tuple[Draft, Guarding]:
        """Return the best draft between the one given and the float model, and what was done; see `guard`."""
        assert self.prepared is not None
        recipe = self.recipe
        with self.log.timed_as_one("guard"):
            result, guarding = guard(
                draft,
                make,
                original=self.base,
                prepared=self.prepared.model,
                threads=recipe.serving,
                prefer=recipe.prefer,
                read_back=self.target.provider in CPU,
                quality=(self._limits or self.limits()) if Budget.of(recipe) else None,
                fidelity=self._served(),
                measure=self.stopwatch(),
            )
        if guarding.verdict is not Verdict.KEPT:
            self.log.warn(guarding.message)
        return result, guarding

    def search(self, statistics: Statistics, make: Make, file: Path | None) -> tuple[Draft, Searching, Checkpoint]:
        """Return the best draft within the budget, or the nearest to it if none is, what was met, and the checkpoint.

        Args:
            statistics: of the prepared model. make: drafts recipes. file: of the checkpoint.
        """
        assert self.prepared is not None
        with self.log.timed("search"):
            limits = self._limits = self.limits()
            checkpoint = Checkpoint(file, checkpoint_key(self.recipe, statistics, self.samples, versions()))
            search = Search(
                recipe=self.recipe,
                choices=self.prepared.ways,
                original=self.base,
                prepared=self.prepared.model,
                make=make,
                limits=limits,
                measure=self.stopwatch(),
                checkpoint=checkpoint,
                conversion_times=ConversionTimes(sizes=Sizes(statistics), timing=self.target.timing),
                progress=self.log.progress or Silent(),
            )
            draft, searching = search.run()
        return draft, searching, checkpoint

    def limits(self, **options: Any) -> Limits:
        """Return what judges models by the recipe's budget, on the evaluation data; options as for `Limits`.

        Raises:
            VerificationError: the float model itself is not within the budget, so that no other can be expected to be.
        """
        assert self.prepared is not None
        budget = Budget.of(self.recipe)
        made = Limits(
            self.base,
            self.prepared.model,
            self.samples,
            budget=budget,
            metric=self._metric(),
            threads=self.recipe.serving[0],
            **options,
        )
        missed = made.shortfall(self.base)
        if missed is not None:
            text = f"the float model itself is not within the limits: {missed}"
            raise VerificationError(
                f"{text}; no quantized model can be expected to be, ask for less; nothing was written"
            )
        return made

    def _served(self) -> Served | None:
        """Return what tells how models are served against what their graphs say, on some evaluation data.

        None where they are served on another kind of processor than this one: what kernels do there is not seen here.
        """
        if self.target.provider not in CPU or not is_here(self.target):
            return None
        return Served(self.base, self.samples, threads=self.recipe.serving[0])

    def stopwatch(self) -> Stopwatch | None:
        """Return what times models on data, None where the model is not served on this machine."""
        assert self.prepared is not None
        if self.target.provider not in available_providers():
            return None
        providers = tuple(dict.fromkeys((self.target.provider, *CPU)))
        return Stopwatch(timed_batch(self.samples).feeds, names=self.prepared.model, providers=providers)

    def verify(self, quantized: ir.Model, plan: Plan) -> Verification:
        """Compare what was made with the job's model, on the evaluation data."""
        with self.log.timed("verify"):
            found = verify(
                self.request.model,
                quantized,
                self.samples,
                plan,
                reference=None if self.prepared is None else self.prepared.model,
                threads=self.recipe.serving[0],
                metric=self._metric(),
                progress=self.log.progress,
            )
        if self.target.provider in CPU:
            return found
        elsewhere = f"compared and timed on {CPU[0]}, not on {self.target.provider}, where the model will be served"
        return replace(found, warnings=(*found.warnings, elsewhere))

    def _metric(self) -> Metric | None:
        if self.recipe.max_ppl_increase is not None:
            return Perplexity(self.samples, signature(self.base))
        return None if self.recipe.metric is None else load_metric(self.recipe.metric)
