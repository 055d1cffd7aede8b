"""Job: one call on its way through the stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from onnxq.calibrators import make_calibrator
from onnxq.data import Source, open_source, signature, synthetic
from onnxq.data.statistics_file import load_statistics
from onnxq.errors import CalibrationError
from onnxq.graph.fingerprint import fingerprint
from onnxq.passes.verifier import Verifier
from onnxq.runtime.session import CPU, run_model
from onnxq.stages.calibrate import calibrate, findings, survey
from onnxq.stages.load import load
from onnxq.stages.plan import (
    choose_format,
    missing,
    needed_opset,
    needed_tensors,
    observed_features,
    observed_tensors,
)
from onnxq.stages.prepare import Prepared, prepare
from onnxq.stages.progress import Progress
from onnxq.stages.verify import verify
from onnxq.stages.verify_metric import load_metric
from onnxq.targets import targets
from onnxq.types.format import Format
from onnxq.types.plan import Plan
from onnxq.types.recipe import Recipe
from onnxq.types.report import Verification
from onnxq.types.statistics import Statistics, TensorStatistics
from onnxq.weights import make_weight_method

if TYPE_CHECKING:
    import onnx_ir as ir

Data = str | Path | Iterable[Mapping[str, Any]] | Callable[[], Iterable[Mapping[str, Any]]]
"""A path, `module:callable`, an iterable of {input name: array}, or a function that returns one."""

NEIGHBOUR = "evaluation.npz"
"""Evaluation data that is found by itself: a file of this name beside the calibration file."""


@dataclass
class Job:
    """One call on its way through the stages: the model, what was asked, and what has been noted so far."""

    source: Any
    recipe: Recipe
    progress: Progress | None
    data: Data | None = None
    ranges_from: str = "nothing: no node needs ranges"
    beside: str | None = None
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.target = targets.get(self.recipe.target)
        if self.target.stands_for:  # the plan and its recipe are to mean the same on every machine
            self.target = targets.get(self.target.stands_for)
            self.recipe = self.recipe.model_copy(update={"target": self.target.name})
        make_calibrator(self.recipe.calibrator.name, self.recipe.calibrator.options)
        for choice in (self.recipe.weights, *(rule.weights for rule in self.recipe.rules)):
            if choice is not None and choice.method is not None:
                make_weight_method(choice.method)
        if self.recipe.metric is not None:
            load_metric(self.recipe.metric)
        with self.timed("load"):
            self.model = load(self.source)
        self.prepared: Prepared | None = None
        self.opened: Source | None = None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes to the stage's seconds."""
        start = perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - start

    def prepare(
        self,
        dump_after: tuple[str, Path] | None = None,
        reproducer_dir: Path | None = None,
        *,
        verify_each: bool = False,
    ) -> Prepared:
        """Bring the model into its normal form, of the opset that the recipe needs; arguments as for that stage."""
        verifier = Verifier(run=run_model, feeds=next(iter(self.samples()))) if verify_each else None
        options: dict[str, Any] = {
            "pipeline": self.recipe.passes,
            "dump_after": dump_after,
            "verify_each": verifier,
            "reproducer_dir": reproducer_dir,
        }
        with self.timed("prepare"):
            prepared = prepare(self.model, **options)
            if self.recipe.format is Format.AUTO:
                chosen, why = choose_format(prepared.model, self.target)
                self.recipe = self.recipe.model_copy(update={"format": chosen})
                self.warnings.append(why)
            needed = needed_opset(prepared.model, self.recipe, self.target)
            if self.recipe.passes is None and needed > prepared.model.opset_imports.get("", needed):
                prepared = prepare(self.model, opset=needed, **options)
        self.warnings += prepared.warnings
        self.prepared = prepared
        return prepared

    def samples(self) -> Source:
        """Return the calibration data, or made-up inputs."""
        if self.opened is None:
            data = self.data if self.data is not None else self.recipe.calibration
            asked = signature(self.model)
            if data is None:
                self.opened = synthetic(asked)
            else:
                self.opened = open_source(data, asked, samples=self.recipe.samples, batch_size=self.recipe.batch_size)
        return self.opened

    def statistics(self, given: Statistics | str | Path | None, **how: Any) -> Statistics:
        """Return the statistics that were given, if they are this model's, or observe the model now."""
        if given is None:
            return self.observe(**how)
        assert self.prepared is not None
        found = given if isinstance(given, Statistics) else load_statistics(Path(given))
        where = "the statistics" if isinstance(given, Statistics) else f"'{given}'"
        self.ranges_from = where
        self.beside = None if isinstance(given, Statistics) else str(given)
        if found.fingerprint != fingerprint(self.prepared.model):
            raise CalibrationError(f"{where} were taken of another model or preparation; calibrate this model")
        model = self.prepared.model
        lacking = observed_tensors(model, self.recipe, self.target) - found.tensors.keys()
        if not lacking:
            features = observed_features(model, self.recipe, self.target)
            needed = needed_tensors(model, found, self.recipe, self.target)
            lacking = frozenset(name for name in needed if missing(features, name, found.tensors.get(name)))
        if lacking:
            shown = ", ".join(f"'{name}'" for name in sorted(lacking)[:3])
            message = f"{where} lack {len(lacking)} tensors that this recipe goes by ({shown}, ...)"
            raise CalibrationError(f"{message}; calibrate with the same recipe")
        return found

    def observe(self, **how: Any) -> Statistics:
        """Run the model over the calibration data, with the keyword arguments of the calibrate stage.

        Where the data can be read again, only those tensors are observed that the plan goes by, and of the others the
        extents: most of what could run on codes is cheaper in float.
        """
        assert self.prepared is not None
        model = self.prepared.model
        wanted = observed_tensors(model, self.recipe, self.target)
        if not wanted:  # nothing is quantized by calibration: the data need not be run
            return Statistics(fingerprint=fingerprint(model))
        source = self.samples()
        features = observed_features(model, self.recipe, self.target)
        how |= {
            "progress": self.progress,
            "subsample": self.recipe.subsample,
            "channel_axes": {name: each.axis for name, each in features.items()},
            "products": [name for name, each in features.items() if each.products],
        }
        with self.timed("calibrate"):
            if not source.repeatable:
                found = calibrate(model, wanted, source, **how)
            else:
                found = survey(model, wanted, source)
                observed: dict[str, TensorStatistics] = {}
                while unseen := needed_tensors(model, found, self.recipe, self.target) - observed.keys():
                    more = calibrate(model, unseen, source, surveyed=found, **how)
                    observed |= more.tensors
                    found = replace(more, tensors={**found.tensors, **observed})
        self.warnings += (*source.warnings, *findings(found))
        self.ranges_from = source.description
        return found

    def verify(self, quantized: ir.Model, made: Plan, evaluation: Data | None) -> Verification:
        """Compare what was made with the job's model, on the evaluation data."""
        source = self._evaluation(evaluation)
        metric = None if self.recipe.metric is None else load_metric(self.recipe.metric)
        with self.timed("verify"):
            found = verify(
                self.model,
                quantized,
                source,
                made,
                reference=None if self.prepared is None else self.prepared.model,
                threads=self.recipe.threads,
                metric=metric,
                progress=self.progress,
            )
        if self.target.provider in CPU:
            return found
        elsewhere = f"compared and timed on {CPU[0]}, not on {self.target.provider}, where the model will be served"
        return replace(found, warnings=(*found.warnings, elsewhere))

    def _evaluation(self, given: Data | None) -> Source:
        data: Any = given if given is not None else self.recipe.evaluation
        near = self.recipe.calibration or self.beside
        if data is None and near is not None and Path(near).with_name(NEIGHBOUR).is_file():
            data = Path(near).with_name(NEIGHBOUR)
        if data is None:
            return self.samples()
        return open_source(data, signature(self.model), batch_size=self.recipe.batch_size)
