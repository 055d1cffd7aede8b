"""Observing: the statistics that plans of a prepared model need, given or taken now."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxq.data.statistics_file import load_statistics
from onnxq.errors import CalibrationError
from onnxq.graph.fingerprint import fingerprint
from onnxq.pipeline.log import Log
from onnxq.pipeline.preparing import PreparedModel, without_ranges
from onnxq.stages.calibrate import calibrate, findings, survey
from onnxq.stages.plan import Examined, Features, missing, needed_tensors, uses_histograms
from onnxq.types.recipe import Recipe
from onnxq.types.statistics import Statistics

NOTHING = "nothing: no node needs ranges"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Observed:
    """Statistics, and where they are from.

    Attributes:
        statistics: of a prepared model. source: the data, in words. file: of statistics that were given, None for none.
    """

    statistics: Statistics
    source: str = NOTHING
    file: Path | None = None


def given_statistics(prepared: PreparedModel, given: Statistics | str | Path) -> Observed:
    """Return statistics that the caller gave.

    Raises:
        CalibrationError: they are of another model, or lack what the recipe needs.
    """
    in_memory = isinstance(given, Statistics)
    statistics = given if isinstance(given, Statistics) else load_statistics(Path(given))
    where = "the statistics" if in_memory else f"'{given}'"
    if statistics.fingerprint != fingerprint(prepared.model):
        raise CalibrationError(f"{where} were taken of another model or preparation; calibrate this model")
    lacking = prepared.examined.observed - statistics.tensors.keys() or _lacking(prepared.examined, statistics)
    if lacking:
        message = f"{where} lack {len(lacking)} tensors that this recipe needs ({_shown(lacking)})"
        raise CalibrationError(f"{message}; calibrate with the same recipe")
    return Observed(statistics=statistics, source=where, file=None if isinstance(given, Statistics) else Path(given))


def observed_for_plan(
    prepared: PreparedModel, given: Statistics | str | Path | None, log: Log, **options: Any
) -> tuple[PreparedModel, Observed]:
    """Return statistics that were given or are taken now, and the model with a recipe for which they are enough.

    Args:
        prepared: the model.
        given: statistics, or the path of their file; None to take them now.
        log, options: as for `observe`.
    """
    if given is not None:
        return prepared, given_statistics(prepared, given)
    prepared = without_ranges(prepared)
    return prepared, observe(prepared, log, **options)


def observe(prepared: PreparedModel, log: Log, **options: Any) -> Observed:
    """Run the model over the calibration data.

    Where the data can be read again, only those tensors are observed that the plan uses, and of the others the
    extents: most of what could run quantized is cheaper in float.

    Args:
        prepared: the model.
        log: takes warnings and times.
        options: keyword arguments of the stage `calibrate`.
    """
    wanted, calibration = prepared.examined.observed, prepared.request.calibration
    if not wanted or not calibration.source.repeatable:
        return observe_for(prepared, (prepared.recipe,), log, **options)
    with log.timed("calibrate"), prepared.naming_nodes():
        surveyed = survey(prepared.model, wanted, calibration.source)
        statistics = complete(prepared, surveyed, prepared.recipe, log, **options)
    return _noted(prepared, statistics, log)


def observe_for(prepared: PreparedModel, recipes: Sequence[Recipe], log: Log, **options: Any) -> Observed:
    """Observe once all that plans of any of these recipes may need, wherever their borders come to lie."""
    examined = [prepared.examinations(recipe) for recipe in recipes]
    wanted = frozenset[str]().union(*(each.observed for each in examined))
    if not wanted:  # nothing is quantized by calibration: the data need not be run
        return Observed(statistics=Statistics(fingerprint=fingerprint(prepared.model)))
    source = prepared.request.calibration.source
    with log.timed("calibrate"), prepared.naming_nodes():
        statistics = calibrate(prepared.model, wanted, source, **(_options(examined, log) | options))
    return _noted(prepared, statistics, log)


def complete(prepared: PreparedModel, statistics: Statistics, recipe: Recipe, log: Log, **options: Any) -> Statistics:
    """Return statistics with those added that the plan of a recipe needs and that were not observed yet.

    Args:
        prepared: the model.
        statistics: of it, with at least the extents of all that could run quantized.
        recipe: the prepared model's, or one with more rules.
        log: for its progress.
        options: keyword arguments of the stage `calibrate`.

    Raises:
        CalibrationError: something is missing, and the data cannot be read again.
    """
    examined, calibration = prepared.examinations(recipe), prepared.request.calibration
    tried: set[str] = set()
    while lacking := _lacking(examined, statistics) - tried:
        tried |= lacking
        if calibration.only_statistics or not calibration.source.repeatable:
            message = f"the statistics lack {len(lacking)} tensors ({_shown(lacking)})"
            raise CalibrationError(f"{message}; calibrate with the same recipe")
        more = calibrate(
            prepared.model,
            lacking,
            calibration.source,
            surveyed=statistics,
            **(_options([examined], log) | options),
        )
        statistics = replace(more, tensors={**statistics.tensors, **more.tensors})
    return statistics


def _noted(prepared: PreparedModel, statistics: Statistics, log: Log) -> Observed:
    """Return statistics that were taken now with their source; what there is to say about them goes to the log."""
    source = prepared.request.calibration.source
    log.warn(*source.warnings, *findings(statistics))
    return Observed(statistics=statistics, source=source.description)


def _options(examined: Sequence[Examined], log: Log) -> dict[str, Any]:
    """Return the keyword arguments of the stage `calibrate` that recipes need together."""
    features: dict[str, Features] = {}
    for each in examined:
        for name, wanted in each.features.items():
            if name not in features or wanted.products:
                features[name] = wanted
    return {
        "progress": log.progress,
        "subsample": examined[0].recipe.subsample,
        "histograms": any(uses_histograms(each.recipe, each.target) for each in examined),
        "channel_axes": {name: each.axis for name, each in features.items()},
        "products": [name for name, each in features.items() if each.products],
    }


def _lacking(examined: Examined, statistics: Statistics) -> frozenset[str]:
    """Return the tensors that a plan uses and that were not observed as it needs them."""
    if not examined.observed:
        return frozenset()
    needed = needed_tensors(examined, statistics)
    return frozenset(name for name in needed if missing(examined.features, name, statistics.tensors.get(name)))


def _shown(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)[:3]) + ", ..."
