"""Drafting: a recipe planned for a prepared model and carried out; what statistics lack for it is observed first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from onnxq.passes.emit.constants import Chosen
from onnxq.passes.emit.drop_inferred import declared_values
from onnxq.pipeline.log import Log
from onnxq.pipeline.observing import complete
from onnxq.pipeline.preparing import PreparedModel
from onnxq.stages.convert import ImportedCodes, is_unchanged, with_imported
from onnxq.stages.layerwise.bias_correction import bias_corrections
from onnxq.stages.layerwise.sequential import choose_in_order, wants_data
from onnxq.stages.plan import make_plan
from onnxq.stages.rewrite import rewrite
from onnxq.tuning.draft import Draft, is_empty
from onnxq.types.plan import Plan
from onnxq.types.recipe import Recipe
from onnxq.types.statistics import Statistics


class Drafter:
    """Makes drafts of a prepared model, one recipe after the other: lacking statistics -> plan -> codes -> rewrite.

    Attributes:
        prepared: the model. log: takes times.
        statistics: what was observed so far. Only ever completed, so that no draft observes again what another did.
    """

    def __init__(
        self,
        prepared: PreparedModel,
        statistics: Statistics,
        log: Log,
        *,
        dump_after: tuple[str, Path] | None = None,
    ) -> None:
        """Take a model and its statistics; `dump_after`: as for the stage `rewrite`."""
        self.prepared = prepared
        self.statistics = statistics
        self.log = log
        self._dump_after = dump_after
        self._declared = declared_values(prepared.base)

    def __call__(self, recipe: Recipe) -> Draft:
        """Return the draft of a recipe: the prepared model's, or one with more rules.

        Raises:
            CalibrationError: the recipe needs more of the calibration data, which cannot be run again.
        """
        prepared = self.prepared
        self.statistics = complete(prepared, self.statistics, recipe, self.log)
        with self.log.timed("plan"):
            plan = planned(prepared, self.statistics, recipe)
        with self.log.timed("rewrite"):
            chosen = chosen_codes(prepared, plan, self.statistics, self.log)
            plan = with_bias_corrections(prepared, recipe, plan, self.statistics, chosen)
            quantized, records = rewrite(
                prepared.model,
                plan,
                statistics=self.statistics,
                chosen=chosen,
                declared=self._declared,
                dump_after=self._dump_after,
            )
        if recipe.passes is None and not prepared.has_imported and _is_unchanged(prepared, plan):
            quantized = prepared.request.model
        elif recipe.passes is None and is_empty(plan):
            quantized = prepared.base  # unchanged: quantizing a second time gives the same bytes
        settled = recipe.model_copy(update={"faults": tuple(sorted(prepared.target.faults))})
        return Draft(recipe=settled, plan=plan, model=quantized, records=records)


def planned(prepared: PreparedModel, statistics: Statistics, recipe: Recipe) -> Plan:
    """Return the plan of a recipe, with what was done to the model before: equalized, imported."""
    plan = replace(make_plan(prepared.examinations(recipe), statistics), equalizations=prepared.equalizations)
    if prepared.imported is None:
        return plan
    return with_imported(plan, prepared.model, prepared.imported, prepared.target.faults)


def chosen_codes(prepared: PreparedModel, plan: Plan, statistics: Statistics, log: Log) -> Mapping[str, Chosen]:
    """Return the codes that were imported with weights, or that sequential methods choose while the model runs.

    Raises:
        CalibrationError: statistics were given in place of the data, which have to be run again for that.
    """
    constants = {} if prepared.imported is None else prepared.imported.weights.constants
    if not wants_data(plan):
        return ImportedCodes(plan, constants)
    source = prepared.request.calibration.again("a sequential weight method", "the option `sequential`")
    threads = prepared.recipe.serving[0]
    chosen = choose_in_order(prepared.model, plan, statistics, source, threads=threads, progress=log.progress)
    return ImportedCodes(plan, constants, chosen)


def with_bias_corrections(
    prepared: PreparedModel, recipe: Recipe, plan: Plan, statistics: Statistics, chosen: Mapping[str, Chosen]
) -> Plan:
    """Return the plan, with what to add to biases to make up for its rounding, if the recipe wants that.

    Raises:
        CalibrationError: statistics were given in place of the data, which have to be run again for that.
    """
    if recipe.bias_correction == "none":
        return plan
    amounts = bias_corrections(
        prepared.model,
        plan,
        prepared.request.calibration.again("bias correction", "`bias_correction`"),
        empirical=recipe.bias_correction == "empirical",
        statistics=statistics,
        chosen=chosen,
        threads=recipe.serving[0],
    )
    return replace(plan, bias_corrections=amounts)


def _is_unchanged(prepared: PreparedModel, plan: Plan) -> bool:
    """Return whether a plan writes all that it quantizes as it was imported."""
    return prepared.imported is not None and is_unchanged(plan, prepared.imported.weights)
