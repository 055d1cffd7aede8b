"""Preparing: a request's model in normal form, imported nodes converted, equalized where the recipe says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxq.errors import CalibrationError, ModelError, OnnxqError, first_few
from onnxq.passes.manager import PassRecord
from onnxq.passes.read.arithmetic import fake_quantization
from onnxq.passes.read.saturation import saturating
from onnxq.passes.verifier import Verifier
from onnxq.pipeline.examining import Examinations, with_any_faults
from onnxq.pipeline.log import Log
from onnxq.pipeline.request import Request
from onnxq.runtime.loading import check_loads
from onnxq.runtime.session import run_model
from onnxq.stages.convert import Converted, convert_and_prepare, with_rest_in_float, with_rules_for
from onnxq.stages.equalize import equalize
from onnxq.stages.plan import Examined, choose_format, needed_opset
from onnxq.stages.prepare import Prepared, prepare
from onnxq.targets import Target
from onnxq.tuning.search.choices import Choice, open_choices
from onnxq.types.equalization import Equalization
from onnxq.types.format import Format
from onnxq.types.recipe import Recipe

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PreparedModel:
    """A request's model, ready to be observed and planned.

    Attributes:
        request: the call. recipe: of the request, with what preparing settled: format, opset, rules of imported nodes.
        base: what was prepared: the request's model, or what conversion made of it.
        model: in normal form. records: of the passes.
        imported: what became of imported nodes, None where nothing was converted.
        equalizations: what was done to the model before, for the plan.
        choices: what a search may do, the recipe itself first; () without a search.
        examinations: what facts say of the nodes, by recipe.
    """

    request: Request
    recipe: Recipe
    base: ir.Model
    model: ir.Model
    records: tuple[PassRecord, ...]
    imported: Converted | None = None
    equalizations: tuple[Equalization, ...] = ()
    choices: tuple[Choice, ...] = field(default=())
    examinations: Examinations

    @property
    def target(self) -> Target:
        """Where the model runs, with the faults that are known so far."""
        return self.examinations.target

    @property
    def examined(self) -> Examined:
        """What facts say of the nodes under the recipe."""
        return self.examinations(self.recipe)

    @property
    def has_imported(self) -> bool:
        """Whether imported nodes were rewritten in the recipe's format."""
        return self.imported is not None and bool(self.imported.written)

    @contextmanager
    def naming_nodes(self) -> Iterator[None]:
        """Where the prepared model cannot be loaded, nor can the user's: report that, whose names the user knows."""
        try:
            yield
        except ModelError:
            check_loads(self.request.model)
            raise


def prepare_model(
    request: Request,
    log: Log,
    *,
    dump_after: tuple[str, Path] | None = None,
    reproducer_dir: Path | None = None,
    verify_each: bool = False,
    convert: bool = True,
) -> PreparedModel:
    """Bring a model into its normal form, of the opset that the recipe needs.

    Args:
        request: the call.
        log: takes warnings and times.
        dump_after, reproducer_dir: as for the stage `prepare`.
        verify_each: check after every pass that the outputs on the first samples stay the same.
        convert: write imported nodes in the recipe's format, where that is another one; False to look at the model as
            it is.
    """
    recipe, target = request.recipe, request.target
    feeds = next(iter(request.calibration.source)) if verify_each else None
    options: dict[str, Any] = {
        "pipeline": recipe.passes,
        "dump_after": dump_after,
        "verify_each": None if feeds is None else Verifier(run=run_model, feeds=feeds),
        "reproducer_dir": reproducer_dir,
    }
    with log.timed("prepare"):
        prepared, imported = prepare(request.model, **options), None
        if recipe.format is Format.AUTO:
            chosen, why = choose_format(prepared.model, target)
            recipe = recipe.model_copy(update={"format": chosen})
            log.warn(why)
        if convert:
            if recipe.faults == "auto":
                target = with_any_faults(target, prepared.model)
            prepared, imported = _converted(request, prepared, recipe, target, log=log, options=options)
            log.warn(*_saturation(prepared.model, target), *_fake_quantization(prepared.model))
        base = request.model if imported is None or imported.model is None else imported.model
        if imported is not None:
            recipe = with_rules_for(recipe, imported.weights)
        prepared, recipe, choices, examinations = _of_needed_opset(base, prepared, recipe, target, options)
    log.warn(*prepared.warnings)
    return PreparedModel(
        request=request,
        recipe=recipe,
        base=base,
        model=prepared.model,
        records=prepared.records,
        imported=imported,
        choices=choices,
        examinations=examinations,
    )


def _converted(
    request: Request, prepared: Prepared, recipe: Recipe, target: Target, *, log: Log, options: Mapping[str, Any]
) -> tuple[Prepared, Converted | None]:
    """Write imported nodes in the recipe's format; return the model prepared again, and what was converted, if any."""
    ranges = request.calibration.data is not None or request.calibration.replayed
    try:
        converted, again = convert_and_prepare(request.model, prepared, recipe, target, ranges=ranges, options=options)
    except OnnxqError as error:
        log.warn(f"imported nodes cannot be written in format {recipe.format}: {error}")
        return prepared, None
    if converted is not None:
        log.warn(converted.message)
    return again, converted


def _saturation(model: ir.Model, target: Target) -> Iterator[str]:
    """Yield a warning about imported products that keep codes whose sums saturate on the target."""
    names = list(dict.fromkeys(entry.node for entry in saturating(model, target)))
    if names:
        yield (
            f"{len(names)} imported products keep weights whose sums of pairs saturate on {target.name} "
            f"({first_few(names)}): write them in another static format, which chooses codes again, or quantize the "
            "float model"
        )


def _fake_quantization(model: ir.Model) -> Iterator[str]:
    """Yield a warning about quantization that is written out as arithmetic."""
    names = fake_quantization(model)
    if names:
        yield (
            f"{len(names)} Round nodes stand between a scale and its inverse ('{names[0]}'): they look like "
            "quantization written out as arithmetic, whose scales are not read; export with QuantizeLinear "
            "and DequantizeLinear"
        )


def _of_needed_opset(
    base: ir.Model, prepared: Prepared, recipe: Recipe, target: Target, options: Mapping[str, Any]
) -> tuple[Prepared, Recipe, tuple[Choice, ...], Examinations]:
    """Return the model in the lowest opset that has all operators that the recipe, or any choice of a search, may need.

    Faults of the runtime are found out before that: a detour around one may need a higher opset.
    """
    examinations = Examinations(prepared.model, target, tries_faults=recipe.faults == "auto")
    recipes = [choice.recipe for choice in open_choices(recipe, lambda choice: None)]
    if examinations.tries_faults:
        for each in recipes:
            examinations(each)
    needed = max(needed_opset(prepared.model, each, examinations.target) for each in recipes)
    # Whichever choice wins, it is looked for in a model of this opset.
    if len(recipes) > 1 and needed > prepared.model.opset_imports.get("", needed):
        recipe = recipe.model_copy(update={"opset": max(needed, recipe.opset or 1)})
    needed = max(needed, recipe.opset or 1)
    if recipe.passes is None and needed > prepared.model.opset_imports.get("", needed):
        prepared = prepare(base, opset=needed, **options)
        examinations = examinations.of(prepared.model)
    choices = open_choices(recipe, lambda choice: examinations(choice).observed) if recipe.search else ()
    return prepared, recipe, choices, examinations


def equalized(prepared: PreparedModel, log: Log) -> PreparedModel:
    """Make a prepared model easier to quantize, as the recipe says; what follows is about the model that it leaves.

    Raises:
        CalibrationError: statistics were given in place of the data, which are observed for that.
    """
    recipe, calibration = prepared.recipe, prepared.request.calibration
    if not recipe.equalize:
        return prepared
    if calibration.only_statistics:
        message = "equalizing observes the calibration data, and only statistics were given"
        raise CalibrationError(f"{message}; give the data too (`calibration`), or take `equalize` out")
    # What a guard found comes after equalizing, when it is replayed, too.
    before_guard = recipe.model_copy(update={"rules": tuple(rule for rule in recipe.rules if not rule.from_guard)})
    with log.timed("equalize"), prepared.naming_nodes():
        result = equalize(prepared.model, before_guard, prepared.target, calibration.source, progress=log.progress)
    return replace(
        prepared,
        model=result.model,
        records=(*prepared.records, *result.records),
        equalizations=result.entries,
        examinations=prepared.examinations.of(result.model),
    )


def without_ranges(prepared: PreparedModel) -> PreparedModel:
    """Return a prepared model whose recipe leaves in float what only calibration data could give ranges.

    That is for imported nodes without data: ranges of made-up inputs must not stand beside those that were imported.
    """
    if not prepared.has_imported or prepared.request.calibration.data is not None:
        return prepared
    return replace(prepared, recipe=with_rest_in_float(prepared.model, prepared.recipe, prepared.target))
