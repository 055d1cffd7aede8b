"""Job: one call on its way through the stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from onnxq.calibrators import make_calibrator
from onnxq.data import Source, open_source, signature, synthetic
from onnxq.data.statistics_file import load_statistics
from onnxq.equalizers import make_equalizers
from onnxq.errors import CalibrationError, ModelError, OnnxqError, RecipeError
from onnxq.evaluate.metric import load_metric
from onnxq.files.costs import load_costs
from onnxq.files.load import load
from onnxq.graph.fingerprint import fingerprint
from onnxq.passes.emit.constants import Chosen
from onnxq.passes.emit.drop_inferred import declared_values
from onnxq.passes.verifier import Verifier
from onnxq.pipeline.faults import with_any_faults, with_faults
from onnxq.progress import Progress
from onnxq.runtime.loading import check_loads
from onnxq.runtime.session import run_model
from onnxq.stages.calibrate import calibrate, findings, survey
from onnxq.stages.convert import (
    ImportedCodes,
    ImportedWeights,
    convert_and_prepare,
    is_as_it_came,
    with_imported,
    with_known,
    with_rest_in_float,
    with_rules_for,
)
from onnxq.stages.equalize import equalize
from onnxq.stages.layerwise.bias_correction import bias_corrections
from onnxq.stages.layerwise.sequential import choose_in_order, wants_data
from onnxq.stages.plan import (
    Features,
    choose_format,
    goes_by_histograms,
    make_plan,
    missing,
    needed_opset,
    needed_tensors,
    observed_features,
    observed_tensors,
)
from onnxq.stages.prepare import Prepared, prepare
from onnxq.stages.rewrite import rewrite
from onnxq.targets import targets, with_costs
from onnxq.targets.faults import known_fault
from onnxq.tuning.budget import Budget
from onnxq.tuning.draft import Draft, Make, is_empty
from onnxq.tuning.search.choices import Way, open_ways
from onnxq.types.costs import Costs
from onnxq.types.equalization import Equalization
from onnxq.types.format import Format
from onnxq.types.plan import Plan
from onnxq.types.recipe import CODEBOOK_METHODS, Recipe
from onnxq.types.statistics import Statistics
from onnxq.weights import make_weight_method

if TYPE_CHECKING:
    import onnx_ir as ir

Data = str | Path | Iterable[Mapping[str, Any]] | Callable[[], Iterable[Mapping[str, Any]]]
"""A path, `module:callable`, an iterable of {input name: array}, or a function that returns one."""


@dataclass
class Job:
    """One call on its way through the stages: the model, what was asked, and what has been noted so far."""

    source: Any
    recipe: Recipe
    progress: Progress | None
    data: Data | None = None
    ranges_from: str = "nothing: no node needs ranges"
    beside: str | None = None
    replayed: bool = False
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.target = targets.get(self.recipe.target)
        if self.target.stands_for:  # the plan and its recipe are to mean the same on every machine
            self.target = targets.get(self.target.stands_for)
            self.recipe = self.recipe.model_copy(update={"target": self.target.name})
        if self.recipe.costs == "auto":
            table = load_costs(self.target.name)
            self.recipe = self.recipe.model_copy(update={"costs": "none" if table is None else table.costs})
        if isinstance(self.recipe.costs, Costs):
            self.target = with_costs(self.target, self.recipe.costs)
        if isinstance(self.recipe.faults, tuple):
            self.target = replace(self.target, faults=frozenset(map(known_fault, self.recipe.faults)))
        make_calibrator(self.recipe.calibrator.name, self.recipe.calibrator.options)
        for choice in (self.recipe.weights, *(rule.weights for rule in self.recipe.rules)):
            if choice is not None and choice.method is not None and choice.method not in CODEBOOK_METHODS:
                make_weight_method(choice.method)
        make_equalizers(self.recipe.equalize)
        if self.recipe.search and not Budget.of(self.recipe):
            raise RecipeError("a search needs a limit: min_sqnr, max_drop or max_ppl_increase")
        if self.recipe.search and self.recipe.equalize:
            raise RecipeError("`equalize` goes by what is quantized, which a search finds out; take one of the two out")
        if self.recipe.metric is not None:
            load_metric(self.recipe.metric)
        with self.timed("load"):
            self.model = self.came = load(self.source)
        self.imported: Mapping[str, str] = {}
        self.left: Mapping[str, str] = {}
        self.known = ImportedWeights()
        self.prepared: Prepared | None = None
        self.opened: Source | None = None
        self.equalizations: tuple[Equalization, ...] = ()
        self.ways: tuple[Way, ...] = ()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes to the stage's seconds."""
        start = perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - start

    @contextmanager
    def _naming_nodes(self) -> Iterator[None]:
        """Where the prepared model cannot be loaded, nor can the user's: tell of that, whose names are known."""
        try:
            yield
        except ModelError:
            check_loads(self.came)
            raise

    def prepare(
        self,
        dump_after: tuple[str, Path] | None = None,
        reproducer_dir: Path | None = None,
        *,
        verify_each: bool = False,
        as_it_is: bool = False,
    ) -> Prepared:
        """Bring the model into its normal form, of the opset that the recipe needs; arguments as for that stage.

        What came quantized in another format than the recipe's is written in that one first, unless the model is to be
        looked at `as_it_is`.
        """
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
            if not as_it_is:
                prepared = self._converted(prepared, options)
            self._settle_faults(prepared.model)
            needed = self._needed_opset(prepared.model)
            if self.recipe.passes is None and needed > prepared.model.opset_imports.get("", needed):
                prepared = prepare(self.model, opset=needed, **options)
            if self.recipe.search:
                self.ways = open_ways(self.recipe, lambda way: observed_tensors(prepared.model, way, self.target))
        self.warnings += prepared.warnings
        self.prepared = prepared
        return prepared

    def equalize(self) -> None:
        """Make the prepared model easier to quantize, as the recipe says; what follows goes by the model it leaves.

        Raises:
            CalibrationError: statistics were given in place of the data, which is observed for that.
        """
        if not self.recipe.equalize:
            return
        assert self.prepared is not None
        if self._only_statistics:
            message = "equalizing observes the calibration data, and only statistics were given"
            raise CalibrationError(f"{message}; give the data too (`calibration`), or take `equalize` out")
        # What a guard found comes after equalizing, when it is replayed, too.
        rules = tuple(rule for rule in self.recipe.rules if not rule.from_guard)
        asked = self.recipe.model_copy(update={"rules": rules})
        with self.timed("equalize"), self._naming_nodes():
            found = equalize(self.prepared.model, asked, self.target, self.samples(), progress=self.progress)
        self.equalizations = found.entries
        self.prepared = replace(self.prepared, model=found.model, records=(*self.prepared.records, *found.records))

    def _converted(self, prepared: Prepared, options: Mapping[str, Any]) -> Prepared:
        """Write what came quantized in the recipe's format; return the model prepared again, if anything was."""
        ranges = self.data is not None or self.recipe.calibration is not None or self.replayed
        if self.recipe.faults == "auto":
            self.target = with_any_faults(self.target, prepared.model)
        try:
            found, again = convert_and_prepare(
                self.model, prepared, self.recipe, self.target, ranges=ranges, options=options
            )
        except OnnxqError as error:
            self.warnings.append(f"what came quantized cannot be written in format {self.recipe.format}: {error}")
            return prepared
        if found is not None:
            self.imported, self.left, self.known = found.nodes, found.left, found.weights
            self.warnings.append(found.message)
            self.model = self.model if found.model is None else found.model
            self.recipe = with_rules_for(self.recipe, found.weights)
        return again

    def planned(self, found: Statistics, recipe: Recipe | None = None) -> Plan:
        """Return the plan of a recipe (the job's) for the prepared model, with what was done to that before."""
        assert self.prepared is not None
        self._settle_faults(self.prepared.model, recipe)
        made = make_plan(self.prepared.model, found, recipe or self.recipe, self.target)
        made = with_known(replace(made, equalizations=self.equalizations), self.prepared.model, self.known)
        return with_imported(made, self.imported, self.left, self.target.faults)

    def _settle_faults(self, model: ir.Model, recipe: Recipe | None = None) -> None:
        """Find out which faults of the runtime plans of a recipe (the job's, and its ways) would meet."""
        if self.recipe.faults == "auto":
            ways = (recipe,) if recipe is not None else (way.recipe for way in open_ways(self.recipe, lambda way: None))
            self.target = with_faults(self.target, model, ways)

    def _needed_opset(self, model: ir.Model) -> int:
        recipes = [way.recipe for way in open_ways(self.recipe, lambda way: None)]
        needed = max(needed_opset(model, recipe, self.target) for recipe in recipes)
        # Whichever way wins, it is looked for in a model of this opset.
        if len(recipes) > 1 and needed > model.opset_imports.get("", needed):
            self.recipe = self.recipe.model_copy(update={"opset": max(needed, self.recipe.opset or 1)})
        return max(needed, self.recipe.opset or 1)

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
        lacking = observed_tensors(self.prepared.model, self.recipe, self.target) - found.tensors.keys()
        lacking = lacking or self._lacking(found, self.recipe)
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
        if self.imported and self.data is None and self.recipe.calibration is None:
            self.recipe = with_rest_in_float(model, self.recipe, self.target)
        wanted = observed_tensors(model, self.recipe, self.target)
        if not wanted or not self.samples().repeatable:
            return self.observe_for((self.recipe,), **how)
        with self.timed("calibrate"), self._naming_nodes():
            found = self.complete(survey(model, wanted, self.samples()), self.recipe, **how)
        return self._noted(found)

    def observe_for(self, recipes: Sequence[Recipe], **how: Any) -> Statistics:
        """Observe once all that plans of any of these recipes may go by, wherever their borders come to lie."""
        assert self.prepared is not None
        model = self.prepared.model
        wanted = frozenset[str]().union(*(observed_tensors(model, recipe, self.target) for recipe in recipes))
        if not wanted:  # nothing is quantized by calibration: the data need not be run
            return Statistics(fingerprint=fingerprint(model))
        source = self.samples()
        with self.timed("calibrate"), self._naming_nodes():
            found = calibrate(model, wanted, source, **(self._observing(*recipes) | how))
        return self._noted(found)

    def _noted(self, found: Statistics) -> Statistics:
        """Return statistics that were observed now, with their source and what it warned of noted."""
        source = self.samples()
        self.warnings += (*source.warnings, *findings(found))
        self.ranges_from = source.description
        return found

    def complete(self, found: Statistics, recipe: Recipe, **how: Any) -> Statistics:
        """Return statistics with those added that the plan of a recipe goes by and that were not observed yet.

        Args:
            found: of this model, with at least the extents of all that could run on codes.
            recipe: the job's, or one with more rules. how: keyword arguments of the calibrate stage.

        Raises:
            CalibrationError: something is missing, and the data cannot be read again.
        """
        assert self.prepared is not None
        tried: set[str] = set()
        while lacking := self._lacking(found, recipe) - tried:
            tried |= lacking
            if self._only_statistics or not self.samples().repeatable:
                shown = ", ".join(f"'{name}'" for name in sorted(lacking)[:3])
                message = f"the statistics lack {len(lacking)} tensors ({shown}, ...)"
                raise CalibrationError(f"{message}; calibrate with the same recipe")
            observing = self._observing(recipe) | how
            more = calibrate(self.prepared.model, lacking, self.samples(), surveyed=found, **observing)
            found = replace(more, tensors={**found.tensors, **more.tensors})
        return found

    @property
    def _only_statistics(self) -> bool:
        """Whether statistics were given without the data: made-up inputs must not be mixed with them."""
        return self.replayed and self.data is None and self.recipe.calibration is None

    def _observing(self, *recipes: Recipe) -> dict[str, Any]:
        """Return the keyword arguments of the calibrate stage that recipes ask for together."""
        assert self.prepared is not None
        features: dict[str, Features] = {}
        for recipe in recipes:
            for name, each in observed_features(self.prepared.model, recipe, self.target).items():
                if name not in features or each.products:
                    features[name] = each
        return {
            "progress": self.progress,
            "subsample": recipes[0].subsample,
            "histograms": any(goes_by_histograms(recipe, self.target) for recipe in recipes),
            "channel_axes": {name: each.axis for name, each in features.items()},
            "products": [name for name, each in features.items() if each.products],
        }

    def _lacking(self, found: Statistics, recipe: Recipe) -> frozenset[str]:
        """Return the tensors that the plan of a recipe goes by and that were not observed as it needs them."""
        assert self.prepared is not None
        model = self.prepared.model
        if not observed_tensors(model, recipe, self.target):
            return frozenset()
        features = observed_features(model, recipe, self.target)
        needed = needed_tensors(model, found, recipe, self.target)
        return frozenset(name for name in needed if missing(features, name, found.tensors.get(name)))

    def chosen(self, made: Plan, found: Statistics) -> Mapping[str, Chosen]:
        """Return the codes that weights came with, or that sequential methods choose while the model runs.

        Raises:
            CalibrationError: statistics were given in place of the data, which has to be run again for that.
        """
        came = ImportedCodes(made, self.known.constants)
        if not wants_data(made):
            return came
        assert self.prepared is not None
        source = self._again("a sequential weight method", "the option `sequential`")
        chosen = choose_in_order(
            self.prepared.model, made, found, source, threads=self.recipe.serving[0], progress=self.progress
        )
        return ImportedCodes(made, self.known.constants, chosen)

    def with_bias_corrections(
        self, recipe: Recipe, made: Plan, found: Statistics, chosen: Mapping[str, Chosen] | None = None
    ) -> Plan:
        """Return the plan, with what makes biases up for its rounding if the recipe wants that.

        Raises:
            CalibrationError: statistics were given in place of the data, which has to be run again for that.
        """
        assert self.prepared is not None
        if recipe.bias_correction == "none":
            return made
        amounts = bias_corrections(
            self.prepared.model,
            made,
            self._again("bias correction", "`bias_correction`"),
            empirical=recipe.bias_correction == "empirical",
            statistics=found,
            chosen=self.chosen(made, found) if chosen is None else chosen,
            threads=recipe.serving[0],
        )
        return replace(made, bias_corrections=amounts)

    def _again(self, what: str, option: str) -> Source:
        """Return the calibration data for a second run."""
        if self._only_statistics:
            message = f"{what} runs the calibration data again, and only statistics were given"
            raise CalibrationError(f"{message}; give the data too (`calibration`), or take {option} out")
        return self.samples()

    def maker(self, found: Statistics, *, dump_after: tuple[str, Path] | None = None) -> Make:
        """Return what plans a recipe for the prepared model and carries the plan out.

        Args:
            found: statistics; where another recipe needs more, it is observed. dump_after: as for `rewrite`.
        """
        assert self.prepared is not None
        prepared, declared = self.prepared.model, declared_values(self.model)

        def make(recipe: Recipe) -> Draft:
            nonlocal found
            found = self.complete(found, recipe)
            with self.timed("plan"):
                made = self.planned(found, recipe)
            with self.timed("rewrite"):
                chosen = self.chosen(made, found)
                made = self.with_bias_corrections(recipe, made, found, chosen)
                quantized, records = rewrite(
                    prepared,
                    made,
                    statistics=found,
                    chosen=chosen,
                    declared=declared,
                    dump_after=dump_after,
                )
            if recipe.passes is None and not self.imported and is_as_it_came(made, self.known):
                quantized = self.came
            elif recipe.passes is None and is_empty(made):
                quantized = self.model  # as it came: quantizing a second time gives the same bytes
            settled = recipe.model_copy(update={"faults": tuple(sorted(self.target.faults))})
            return Draft(recipe=settled, plan=made, model=quantized, records=records)

        return make
