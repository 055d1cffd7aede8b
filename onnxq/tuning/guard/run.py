"""The guard: a quantized model that is as planned, good enough and never slower; else the float model, and why."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Literal

from onnxq.evaluate.kernels import unfused
from onnxq.graph.tensors import stored_bytes
from onnxq.tuning.draft import Draft, Make, keep, refine
from onnxq.tuning.guard.accuracy import ErrorGuard, Quality
from onnxq.tuning.guard.faults import FaultGuard, Fidelity
from onnxq.tuning.guard.latency import Measure, SpeedGuard
from onnxq.types.guarding import Guarding, GuardStep, Race, Verdict
from onnxq.types.rule import Rule

if TYPE_CHECKING:
    import onnx_ir as ir

# Nodes that turn out unfused change what their neighbours fuse to; a few rounds settle that.
_ROUNDS = 5


def guard(
    draft: Draft,
    make: Make,
    *,
    original: ir.Model,
    prepared: ir.Model,
    threads: tuple[int, ...],
    prefer: Literal["speed", "size"] = "speed",
    read_back: bool = True,
    quality: Quality | None = None,
    fidelity: Fidelity | None = None,
    measure: Measure | None = None,
) -> tuple[Draft, Guarding]:
    """Return the best draft between the one given and the float model, and what was done.

    Args:
        draft: the first one.
        make: makes another one of a recipe.
        original: the float model.
        prepared: its normal form, whose nodes the plan names.
        threads: counts the model is served with, 0 for all cores.
        prefer: as in the recipe.
        read_back: look at what the runtime makes of the model.
        quality: judges the outputs; None where all will do.
        fidelity: measures how models are served against what their graphs say; None where that is not seen here,
            since they are served on another kind of processor.
        measure: measures time; None where that cannot be done here.

    Raises:
        ModelError: the runtime cannot load or run a model. RecipeError: the user's metric fails.
    """
    began = perf_counter()
    steps: list[GuardStep] = []

    def as_planned(tried: Draft) -> Sequence[Rule]:
        in_float = unfused(tried.model, tried.plan, threads=threads[0])
        if in_float:
            steps.append(GuardStep(why="unfused", nodes=tuple(in_float), text="the runtime leaves them in float"))
        return keep(
            in_float,
            "unfused",
            {node: f"planned for integers, but runs as {ran}" for node, ran in in_float.items()},
        )

    if read_back:
        draft = refine(make, draft, as_planned, rounds=_ROUNDS)
    speed = (
        SpeedGuard(
            original=original,
            prepared=prepared,
            make=make,
            measure=measure,
            threads=threads,
            good=lambda model: quality is None or quality.shortfall(model) is None,
            steps=steps,
        )
        if measure is not None
        else None
    )

    def as_served(tried: Draft) -> Draft:
        if fidelity is None or not tried.quantized:
            return tried
        faster = None if speed is None else speed.faster
        return FaultGuard(make=make, fidelity=fidelity, prefer=prefer, faster=faster, steps=steps).improve(tried)

    draft = right = as_served(draft)
    if quality is not None:
        errors = ErrorGuard(prepared=prepared, make=make, quality=quality, steps=steps)
        draft = errors.improve(draft)

    def done(result: Draft, verdict: Verdict, message: str, races: tuple[Race, ...] = ()) -> tuple[Draft, Guarding]:
        return result, Guarding(
            verdict=verdict, message=message, seconds=perf_counter() - began, races=races, steps=tuple(steps)
        )

    if not draft.quantized and not steps:
        return done(draft, Verdict.KEPT, "nothing is quantized, so nothing was measured")
    if not draft.quantized:
        return done(draft, Verdict.FLOAT, "no node is left to quantize: the result is the float model")
    if speed is None:
        return done(draft, Verdict.KEPT, "time was not measured: the model is not served on this machine")
    if prefer == "speed":
        draft = speed.improve(draft)
    if draft is not right:  # what was put in float may have changed what its neighbours run as
        draft = as_served(draft)
    if not draft.quantized:
        text = "nothing is gained: every quantized node is in a group that takes longer than in float"
        return done(draft, Verdict.FLOAT, f"{text}; {_ADVICE}")
    races = speed.races(draft.model)
    slow = [race for race in races if race.slower]
    before, after = stored_bytes(original), stored_bytes(draft.model)
    if slow and prefer == "size" and after < before:
        return done(draft, Verdict.SLOWER, f"slower than float: {_figures(slow)}; kept, since size is preferred", races)
    if slow and after >= before:
        text = f"slower than float: {_figures(slow)}, and larger: {after} bytes, float {before}"
        return done(_all_float(make, draft, text), Verdict.FLOAT, f"{text}; the result is the float model", races)
    if slow:
        text = f"slower than float: {_figures(slow)}"
        return done(_all_float(make, draft, text), Verdict.FLOAT, f"{text}; {_ADVICE}", races)
    if not any(race.faster for race in races) and after >= before:
        text = f"nothing is gained: {_figures(races)}, and the model does not get smaller"
        return done(_all_float(make, draft, text), Verdict.FLOAT, f"{text}; the result is the float model", races)
    return done(draft, Verdict.KEPT, f"not slower than float: {_figures(races)}", races)


_ADVICE = "the result is the float model (--prefer size keeps it quantized)"


def _all_float(make: Make, draft: Draft, why: str) -> Draft:
    """Return a draft that quantizes nothing: what was kept for other reasons keeps them."""
    return refine(make, draft, lambda tried: keep(tried.quantized, "slower", why), rounds=_ROUNDS)


def _figures(races: Sequence[Race]) -> str:
    parts = []
    for race in races:
        served = "all cores" if race.threads == 0 else f"{race.threads} thread{'s' if race.threads > 1 else ''}"
        parts.append(f"{race.speedup:.2f}x with {served} (noise {race.noise:.1%})")
    return ", ".join(parts)
