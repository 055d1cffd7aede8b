"""Request: one call, with everything that can be settled before the model is prepared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxq.calibrators import make_calibrator
from onnxq.data import Source, open_source, signature, synthetic
from onnxq.equalizers import make_equalizers
from onnxq.errors import CalibrationError, RecipeError
from onnxq.evaluate.metric import load_metric
from onnxq.files.costs import load_costs
from onnxq.files.load import RENAMED, load
from onnxq.pipeline.log import Log
from onnxq.targets import Target, targets, with_costs
from onnxq.targets.faults import known_fault
from onnxq.tuning.budget import Budget
from onnxq.types.choices import CODEBOOK_METHODS
from onnxq.types.costs import Costs
from onnxq.types.recipe import Recipe
from onnxq.weights import make_weight_method

if TYPE_CHECKING:
    import onnx_ir as ir

Data = str | Path | Iterable[Mapping[str, Any]] | Callable[[], Iterable[Mapping[str, Any]]]
"""A path, `module:callable`, an iterable of {input name: array}, or a function that returns one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationData:
    """The calibration data of a call, opened when they are first needed.

    Attributes:
        data: what the caller or the recipe gave, None for nothing. model: whose inputs they are.
        samples, batch_size: of the recipe.
        replayed: whether statistics were given in place of a calibration.
    """

    data: Data | None
    model: ir.Model
    samples: int | None
    batch_size: int | None
    replayed: bool

    @property
    def only_statistics(self) -> bool:
        """Whether statistics were given without the data: made-up inputs must not be mixed with them."""
        return self.replayed and self.data is None

    @cached_property
    def source(self) -> Source:
        """The data, or made-up inputs.

        Raises:
            CalibrationError: data that cannot be opened.
        """
        inputs = signature(self.model)
        if self.data is None:
            return synthetic(inputs)
        return open_source(self.data, inputs, samples=self.samples, batch_size=self.batch_size)

    @property
    def sha256(self) -> str | None:
        """The hash of the data, None where they were never opened or have none."""
        return self.source.sha256 if "source" in self.__dict__ else None

    def again(self, what: str, option: str) -> Source:
        """Return the data for another run, which `what` needs; `option` of the recipe asks for it.

        Raises:
            CalibrationError: statistics were given in place of the data.
        """
        if self.only_statistics:
            message = f"{what} runs the calibration data again, and only statistics were given"
            raise CalibrationError(f"{message}; give the data too (`calibration`), or take {option} out")
        return self.source


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Request:
    """One call.

    Attributes:
        given: the model as the caller gave it, a path or a model in memory. model: the same, loaded.
        recipe: with the name of a target that means the same on every machine, and the costs to plan with.
        target: with these costs, and with the faults that the recipe names.
        calibration: data to observe the model on.
    """

    given: Any
    model: ir.Model
    recipe: Recipe
    target: Target
    calibration: CalibrationData

    @property
    def path(self) -> Path | None:
        """The model's file, None for a model in memory."""
        return Path(self.given) if isinstance(self.given, str | Path) else None


def make_request(
    model: Any,
    recipe: Recipe,
    log: Log,
    *,
    calibration: Data | None = None,
    replayed: bool = False,
) -> Request:
    """Load a model and settle what is wanted of it.

    Args:
        model: path of an ONNX file, or a model in memory.
        recipe: what the caller wants.
        log: takes the time of loading.
        calibration: data that the caller gave, over those that the recipe names.
        replayed: whether statistics were given in place of a calibration.

    Raises:
        RecipeError: the recipe names something unknown, or its parts exclude each other. ModelError: as for `load`.
    """
    target = targets.get(recipe.target)
    if target.stands_for:  # the plan and its recipe are to mean the same on every machine
        target = targets.get(target.stands_for)
        recipe = recipe.model_copy(update={"target": target.name})
    if recipe.costs == "auto":
        table = load_costs(target.name)
        recipe = recipe.model_copy(update={"costs": "none" if table is None else table.costs})
    if isinstance(recipe.costs, Costs):
        target = with_costs(target, recipe.costs)
    if isinstance(recipe.faults, tuple):
        target = replace(target, faults=frozenset(map(known_fault, recipe.faults)))
    _check_names(recipe)
    if recipe.search and not Budget.of(recipe):
        raise RecipeError("a search needs a limit: min_sqnr, max_drop or max_ppl_increase")
    if recipe.search and recipe.equalize:
        raise RecipeError("`equalize` depends on what is quantized, which a search finds out; take one of the two out")
    with log.timed("load"):
        loaded = load(model)
    log.warn(*_renamed(loaded.meta[RENAMED]))
    data = CalibrationData(
        data=calibration if calibration is not None else recipe.calibration,
        model=loaded,
        samples=recipe.samples,
        batch_size=recipe.batch_size,
        replayed=replayed,
    )
    return Request(given=model, model=loaded, recipe=recipe, target=target, calibration=data)


def _renamed(pairs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Return a warning that names the nodes which had the name of another: rules go by the new names."""
    if not pairs:
        return ()
    shown = ", ".join(f"'{old}' is '{new}' now" for old, new in pairs[:3]) + (", ..." if len(pairs) > 3 else "")
    return (f"{len(pairs)} nodes had the name of another node, which onnxruntime refuses, and were renamed: {shown}",)


def _check_names(recipe: Recipe) -> None:
    """Raise RecipeError for a calibrator, weight method, equalizer or metric that does not exist."""
    make_calibrator(recipe.calibrator.name, recipe.calibrator.options)
    for choice in (recipe.weights, *(rule.weights for rule in recipe.rules)):
        if choice is not None and choice.method is not None and choice.method not in CODEBOOK_METHODS:
            make_weight_method(choice.method)
    make_equalizers(recipe.equalize)
    if recipe.metric is not None:
        load_metric(recipe.metric)
