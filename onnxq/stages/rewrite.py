"""rewrite: Model, Plan -> Model, by the emitter of the plan's format."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxq.errors import ModelError, PassError
from onnxq.passes.emit.constants import Chosen
from onnxq.passes.manager import PassRecord, Verifier, run_pipeline
from onnxq.types.format import Format
from onnxq.types.plan import Plan
from onnxq.types.statistics import Statistics

if TYPE_CHECKING:
    import onnx_ir as ir

_CORRECT, _EMIT = "correct-biases", "emit-"
# Passes behind the emitters. So is close-pairs, which prepares as well.
_CONVERT, _SHIELD, _DROP = "convert-float", "shield-float", "drop-inferred"


def is_of_rewrite(name: str) -> bool:
    """Return whether a pass is one of those that carry out a plan; others prepare."""
    return name.startswith(_EMIT) or name in (_CORRECT, _CONVERT, _SHIELD, _DROP)


def rewrite(
    model: ir.Model,
    plan: Plan,
    *,
    statistics: Statistics | None = None,
    chosen: Mapping[str, Chosen] | None = None,
    declared: frozenset[str] | None = None,
    dump_after: tuple[str, Path] | None = None,
    verify_each: Verifier | None = None,
) -> tuple[ir.Model, tuple[PassRecord, ...]]:
    """Carry out a plan on a copy of its prepared model.

    Args:
        model: prepared. plan: made for it. statistics: that it was made from, for weight methods that use them.
        chosen: codes of weights that are known already, by plan key; see onnxq.stages.layerwise.sequential.
        declared: inner values whose types and shapes stay in the model (`declared_values` of the original); those of
            others are taken out. None: all stay.
        dump_after, verify_each: as for `run_pipeline`.

    Raises:
        PlanError: the plan does not fit the model. PassError: an emitter failed or left an invalid model.
        ModelError: a weight holds NaN or infinite values.
    """
    present = {decision.format for decision in plan.decisions if decision.format is not None}
    # Weights first: what is quantized at run time or by calibration then finds the rest of the model as planned.
    order = [fmt for fmt in (Format.WEIGHT_ONLY, Format.DYNAMIC, Format.QDQ, Format.QOPERATOR) if fmt in present]
    names = [f"{_EMIT}{fmt}" for fmt in order]
    options: dict[str, dict[str, Any]] = {
        name: {"plan": plan, "statistics": statistics, "chosen": chosen} for name in names
    }
    if plan.bias_corrections:
        names.insert(0, _CORRECT)
        options[_CORRECT] = {"plan": plan}
    if plan.constants or any(decision.float_type is not None for decision in plan.decisions):
        names.append(_CONVERT)
        options[_CONVERT] = {"plan": plan}
    names += [_SHIELD, "close-pairs"]
    options[_SHIELD] = {"plan": plan}
    if declared is not None:
        names.append(_DROP)
        options[_DROP] = {"declared": declared}
    with _faults_of_the_model():
        return run_pipeline(model, names, options=options, dump_after=dump_after, verify_each=verify_each)


def simulate(
    model: ir.Model,
    plan: Plan,
    *,
    statistics: Statistics | None = None,
    chosen: Mapping[str, Chosen] | None = None,
) -> ir.Model:
    """Return a copy of a prepared model that rounds every value to the value of its code, in float arithmetic.

    Raises:
        PlanError: the plan does not fit the model. ModelError: a weight holds NaN or infinite values.
    """
    options: dict[str, dict[str, Any]] = {_CORRECT: {"plan": plan}} if plan.bias_corrections else {}
    options["simulate"] = {"plan": plan, "statistics": statistics, "chosen": chosen}
    with _faults_of_the_model():
        simulated, _ = run_pipeline(model, tuple(options), options=options)
    return simulated


@contextlib.contextmanager
def _faults_of_the_model() -> Iterator[None]:
    """Tell what a model holds and no emitter can take, such as NaN, from a pass that fails."""
    try:
        yield
    except PassError as error:
        if isinstance(error.__cause__, ModelError):
            raise error.__cause__ from None
        raise
