"""rewrite: Model, Plan -> Model, by the emitter of the plan's format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnxq.errors import RecipeError, nearest
from onnxq.passes import passes
from onnxq.passes.manager import PassRecord, Verifier, run_pipeline
from onnxq.types.plan import Plan

if TYPE_CHECKING:
    import onnx_ir as ir

_EMIT = "emit-"


def formats() -> list[str]:
    """Return the formats there is an emitter for."""
    return [name.removeprefix(_EMIT) for name in passes.names() if name.startswith(_EMIT)]


def check_format(name: str) -> None:
    """Raise RecipeError with the nearest spelling unless there is an emitter for `name`."""
    if name not in formats():
        raise RecipeError(f"unknown format '{name}'{nearest(name, formats())}")


def rewrite(
    model: ir.Model,
    plan: Plan,
    *,
    dump_after: tuple[str, Path] | None = None,
    verify_each: Verifier | None = None,
) -> tuple[ir.Model, tuple[PassRecord, ...]]:
    """Carry out a plan on a copy of its prepared model.

    Raises:
        PlanError: the plan does not fit the model. PassError: an emitter failed or left an invalid model.
    """
    check_format(plan.format)
    name = f"{_EMIT}{plan.format}"
    return run_pipeline(
        model, (name,), options={name: {"plan": plan}}, dump_after=dump_after, verify_each=verify_each
    )
