"""Judging: what is asked of drafts and models, on the evaluation data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from onnxq.data import Source, open_source, signature
from onnxq.errors import VerificationError
from onnxq.evaluate.metric import Metric, load_metric
from onnxq.evaluate.perplexity import Perplexity
from onnxq.evaluate.served import Served
from onnxq.evaluate.verify import timed_batch, verify
from onnxq.pipeline.job import Data, Job
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
from onnxq.tuning.search.checkpoint import Notebook, key_of
from onnxq.tuning.search.conversions import Conversion
from onnxq.types.guarding import Guarding, Verdict
from onnxq.types.plan import Plan
from onnxq.types.report import Verification
from onnxq.types.searching import Searching
from onnxq.types.statistics import Statistics

if TYPE_CHECKING:
    import onnx_ir as ir

NEIGHBOUR = "evaluation.npz"
"""Evaluation data that is found by itself: a file of this name beside the calibration file."""


class Judging:
    """Judges what a job makes.

    Attributes:
        job: the job, prepared but for `verify`.
    """

    def __init__(self, job: Job, evaluation: Data | None) -> None:
        """Take what was given; nothing is opened before it is needed."""
        self.job = job
        self._evaluation = evaluation
        self._opened: Source | None = None
        self._limits: Limits | None = None

    def samples(self) -> Source:
        """Return the data to judge models on: what was given, named, or found beside the calibration data, or that."""
        if self._opened is None:
            recipe = self.job.recipe
            data: Any = self._evaluation if self._evaluation is not None else recipe.evaluation
            near = recipe.calibration or self.job.beside
            if data is None and near is not None and Path(near).with_name(NEIGHBOUR).is_file():
                data = Path(near).with_name(NEIGHBOUR)
            self._opened = (
                self.job.samples()
                if data is None
                else open_source(data, signature(self.job.model), batch_size=recipe.batch_size)
            )
        return self._opened

    def guard(self, draft: Draft, make: Make) -> tuple[Draft, Guarding]:
        """Return the best draft between the one given and the float model, and what was done; see `guard`."""
        assert self.job.prepared is not None
        recipe = self.job.recipe
        before, began = dict(self.job.seconds), perf_counter()
        result, guarding = guard(
            draft,
            make,
            original=self.job.model,
            prepared=self.job.prepared.model,
            threads=recipe.serving,
            prefer=recipe.prefer,
            read_back=self.job.target.provider in CPU,
            quality=(self._limits or self.limits()) if Budget.of(recipe) else None,
            fidelity=self._served(),
            measure=self.stopwatch(),
        )
        self.job.seconds = {**before, "guard": perf_counter() - began}  # of which plan and rewrite took parts
        self.job.recipe = result.recipe
        if guarding.verdict is not Verdict.KEPT:
            self.job.warnings.append(guarding.message)
        return result, guarding

    def search(self, found: Statistics, make: Make, checkpoint: Path | None) -> tuple[Draft, Searching, Notebook]:
        """Return the best draft within the budget, or the nearest to it if none is, what was met, and the notebook.

        Args:
            found: statistics. make: of `Job.maker`. checkpoint: file of the notebook.
        """
        assert self.job.prepared is not None
        told, self.job.progress = self.job.progress, None  # of the search; not of what single drafts take
        with self.job.timed("search"):
            limits = self._limits = self.limits()
            notebook = Notebook(checkpoint, key_of(self.job.recipe, found, self.samples(), versions()))
            search = Search(
                recipe=self.job.recipe,
                ways=self.job.ways,
                original=self.job.model,
                prepared=self.job.prepared.model,
                make=make,
                limits=limits,
                measure=self.stopwatch(),
                notebook=notebook,
                conversion=Conversion(sizes=Sizes(found), timing=self.job.target.timing),
                progress=told or Silent(),
            )
            draft, searching = search.run()
        self.job.progress = told
        self.job.recipe = draft.recipe
        return draft, searching, notebook

    def limits(self, **options: Any) -> Limits:
        """Return what judges models by the recipe's budget, on the evaluation data; options as for `Limits`.

        Raises:
            VerificationError: the float model itself is not within the budget, so that no other can be expected to be.
        """
        assert self.job.prepared is not None
        budget = Budget.of(self.job.recipe)
        made = Limits(
            self.job.model,
            self.job.prepared.model,
            self.samples(),
            budget=budget,
            metric=self._metric(),
            threads=self.job.recipe.serving[0],
            **options,
        )
        missed = made.shortfall(self.job.model)
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
        if self.job.target.provider not in CPU or not is_here(self.job.target):
            return None
        return Served(self.job.model, self.samples(), threads=self.job.recipe.serving[0])

    def stopwatch(self) -> Stopwatch | None:
        """Return what times models on data, None where the model is not served on this machine."""
        assert self.job.prepared is not None
        if self.job.target.provider not in available_providers():
            return None
        providers = tuple(dict.fromkeys((self.job.target.provider, *CPU)))
        return Stopwatch(timed_batch(self.samples()).feeds, names=self.job.prepared.model, providers=providers)

    def verify(self, quantized: ir.Model, made: Plan) -> Verification:
        """Compare what was made with the job's model, on the evaluation data."""
        with self.job.timed("verify"):
            found = verify(
                self.job.came,
                quantized,
                self.samples(),
                made,
                reference=None if self.job.prepared is None else self.job.prepared.model,
                threads=self.job.recipe.serving[0],
                metric=self._metric(),
                progress=self.job.progress,
            )
        if self.job.target.provider in CPU:
            return found
        elsewhere = f"compared and timed on {CPU[0]}, not on {self.job.target.provider}, where the model will be served"
        return replace(found, warnings=(*found.warnings, elsewhere))

    def _metric(self) -> Metric | None:
        if self.job.recipe.max_ppl_increase is not None:
            return Perplexity(self.samples(), signature(self.job.model))
        return None if self.job.recipe.metric is None else load_metric(self.job.recipe.metric)
