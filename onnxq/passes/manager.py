"""The pass manager: runs a pipeline, times and counts each pass, and checks, dumps and reproduces on request."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxq.errors import PassError, RecipeError, nearest
from onnxq.graph.walk import scopes
from onnxq.passes import PassEntry, passes
from onnxq.passes.pipeline import PassStep, parse
from onnxq.passes.quiet_libraries import quiet_libraries
from onnxq.passes.reproducer import dump_model, write_reproducer
from onnxq.passes.verifier import Verifier, checker_complaint

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["PassRecord", "Verifier", "run_pipeline"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PassRecord:
    """What one pass did.

    Attributes:
        name: the step as written in the pipeline, options included.
        modified: whether the model changed.
        nodes_before, nodes_after: nodes in all scopes.
        seconds: time the pass took, checks not counted.
        warnings: for the user.
        skipped: why the pass was left out, None if it ran.
    """

    name: str
    modified: bool
    nodes_before: int
    nodes_after: int
    seconds: float
    warnings: tuple[str, ...] = ()
    skipped: str | None = None


def run_pipeline(
    model: ir.Model,
    names: Sequence[str],
    *,
    dump_after: tuple[str, Path] | None = None,
    verify_each: Verifier | None = None,
    reproducer_dir: Path | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    may_skip: Container[str] = (),
) -> tuple[ir.Model, tuple[PassRecord, ...]]:
    """Run passes in order on a copy of `model`, which itself stays as it is (weights are shared).

    Args:
        model: what to start from.
        names: passes by name, as in a textual pipeline (`convert-version{opset=21}`); a name may come more than once.
        dump_after: name of a pass and the file to write the model to as it is after it (after its last run).
        verify_each: check the model after every pass, and compare outputs around passes that claim to preserve them.
        reproducer_dir: folder to write a reproducer into when a pass fails.
        options: options that cannot be written as text (a plan), by pass name.
        may_skip: passes to leave out when they fail; the record says why. Other failures end the run.

    Returns:
        The new model, and one record for each pass in order.

    Raises:
        RecipeError: an unknown pass or option. PassError: a pass failed, or broke the model or its claim.
    """
    steps = _steps(names, options or {})
    dump = None if dump_after is None else (_last(dump_after[0], steps), dump_after[1])
    skipped: dict[int, str] = {}
    while True:
        try:
            with quiet_libraries():
                return _attempt(model, steps, skipped, dump, verify_each)
        except _StepError as failure:
            step = steps[failure.index]
            message = f"pass '{step}' failed: {failure.reason}"
            if reproducer_dir is not None:
                before, _ = _attempt(model, steps[: failure.index], skipped, None, None)
                folder = write_reproducer(reproducer_dir, before, steps[failure.index :], message, failure.__cause__)
                message += f"; a reproducer is in '{folder}'"
            if step.name not in may_skip:
                raise PassError(f"{message}; leave the pass out, or report this") from failure.__cause__
            skipped[failure.index] = message


class _StepError(Exception):
    """A pass failed; carries its place in the pipeline and the reason."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index
        self.reason = reason


class _Watch:
    """Checks a model after every pass against what held before it."""

    def __init__(self, verifier: Verifier, model: ir.Model) -> None:
        self._verifier = verifier
        self._was_valid = checker_complaint(model) is None  # a model that was invalid from the start is not held to it
        self._outputs = verifier.outputs(model)

    def complaint(self, entry: PassEntry, model: ir.Model) -> str | None:
        """Return what `entry` broke, None if nothing; the next pass is then measured against what `model` computes."""
        invalid = checker_complaint(model) if self._was_valid else None
        if invalid is not None:
            return f"it left an invalid model: {invalid}"
        outputs = self._verifier.outputs(model)
        changed = self._verifier.difference(self._outputs, outputs) if entry.preserves_semantics else None
        self._outputs = outputs
        return None if changed is None else f"it claims to preserve what the model computes, but {changed}"


def _attempt(
    model: ir.Model,
    steps: Sequence[PassStep],
    skipped: Mapping[int, str],
    dump: tuple[int, Path] | None,
    verifier: Verifier | None,
) -> tuple[ir.Model, tuple[PassRecord, ...]]:
    """Run the pipeline without the steps in `skipped`; raises _StepError where a pass fails."""
    model = model.clone()
    watch = None if verifier is None else _Watch(verifier, model)
    records: list[PassRecord] = []
    for index, step in enumerate(steps):
        nodes = _count(model)
        if index in skipped:
            reason = skipped[index]
            records.append(_record(step, False, nodes, nodes, 0.0, skipped=reason))
        else:
            entry = passes.get(step.name)
            started = time.perf_counter()
            try:
                result = entry.make(step.options)(model)
            except Exception as error:
                raise _StepError(index, _root(error)) from error
            seconds = time.perf_counter() - started
            model = result.model
            records.append(
                _record(step, result.modified, nodes, _count(model), seconds, warnings=getattr(result, "warnings", ()))
            )
            complaint = None if watch is None else watch.complaint(entry, model)
            if complaint is not None:
                raise _StepError(index, complaint)
        if dump is not None and dump[0] == index:
            dump_model(model, dump[1])
    return model, tuple(records)


def _record(step: PassStep, modified: bool, before: int, after: int, seconds: float, **more: Any) -> PassRecord:
    return PassRecord(
        name=str(step),
        modified=modified or before != after,
        nodes_before=before,
        nodes_after=after,
        seconds=seconds,
        **more,
    )


def _steps(names: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> tuple[PassStep, ...]:
    """Return the steps named, with `options` joined to what their text says, and make each pass once to check it."""
    steps = [step for name in names for step in parse(name)]
    for name in options:
        _last(name, steps)
    steps = [replace(step, options={**step.options, **options.get(step.name, {})}) for step in steps]
    for step in steps:
        passes.get(step.name).make(step.options)
    return tuple(steps)


def _last(name: str, steps: Sequence[PassStep]) -> int:
    """Return where the pipeline runs `name` for the last time."""
    places = [index for index, step in enumerate(steps) if step.name == name]
    if not places:
        raise RecipeError(f"pass '{name}' is not in the pipeline{nearest(name, [step.name for step in steps])}")
    return places[-1]


def _count(model: ir.Model) -> int:
    return sum(1 for scope in scopes(model) for _ in scope)


def _root(error: BaseException) -> str:
    """Return the first line of the innermost cause: libraries wrap their errors in several layers."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    return text.rstrip(".")
