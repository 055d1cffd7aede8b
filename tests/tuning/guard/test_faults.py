"""Kernels that compute something else: with a judge that says what it is told."""

import math
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from onnxq.evaluate.served import Departure, Gap
from onnxq.graph.walk import nodes
from onnxq.tuning.guard import guard
from onnxq.tuning.guard.faults import FaultGuard
from onnxq.tuning.guard.forms import forms_of
from onnxq.types.recipe import Recipe
from tests.support.quantizing import quantize_text
from tests.support.tuning import TEXT, Workshop


def weights(model: ir.Model, kind: ir.DataType) -> set[str]:
    """Return the nodes that multiply weights quantized to a type."""
    found = set()
    for path, node in nodes(model):
        for value in node.inputs:
            maker = None if value is None else value.producer()
            codes = None if maker is None or maker.op_type != "DequantizeLinear" else maker.inputs[0]
            if codes is not None and codes.is_initializer() and codes.dtype == kind and codes.name != "bias":
                found.add(path)
    return found


class Kernels:
    """Kernels that are wrong for some nodes while their weights have a type; each adds its noise to the output."""

    def __init__(self, wrong: dict[str, float], types: Collection[ir.DataType] = (ir.DataType.INT8,)) -> None:
        self.wrong, self.types, self.asked = wrong, types, 0

    def faulty(self, model: ir.Model) -> dict[str, float]:
        running = set().union(*(weights(model, kind) for kind in self.types))
        return {node: noise for node, noise in self.wrong.items() if node in running}

    def gap(self, model: ir.Model, *, rounding: bool = True) -> Gap:
        self.asked += 1
        served = -10 * math.log10(1e-4 + sum(self.faulty(model).values()))
        return Gap(output="y", plain=40.0, served=served, allowed=1.0)

    def departures(self, model: ir.Model, *, rounding: bool = True) -> list[Departure]:
        named = dict(nodes(model))
        found = [
            Departure(tensor=node, noise=noise, nodes=(node,), ran=(named[node],))
            for node, noise in self.faulty(model).items()
        ]
        return sorted(found, key=lambda each: -each.noise)


def improved(workshop: Workshop, kernels: Kernels, recipe: Recipe | None = None, **options):
    repairing = FaultGuard(make=workshop, fidelity=kernels, **options)
    return repairing.improve(workshop(recipe or Recipe())), repairing


def reasons(draft, code="kernel-fault") -> set[str]:
    return {entry.node for entry in draft.plan.decisions if entry.reason.code == code}


def test_where_nothing_is_wrong_nothing_is_made_and_one_model_is_measured(workshop):
    kernels = Kernels({})
    draft, repairing = improved(workshop, kernels)
    assert (draft is workshop.made[0], len(workshop.made), kernels.asked, repairing.steps) == (True, 1, 1, [])


def test_the_node_that_is_wrong_gets_the_next_form_and_the_plan_says_why(workshop):
    draft, repairing = improved(workshop, Kernels({"m3": 1e-2}))
    assert reasons(draft) == {"m3"}
    (rule,) = draft.recipe.rules
    assert (rule.why, rule.keep, rule.weights.dtype) == ("kernel-fault", None, "uint8")
    decision = next(entry for entry in draft.plan.decisions if entry.node == "m3")
    assert decision.action == "quantize"
    assert "20.0 dB as served, 40.0 dB with the optimizer off; uint8 weights: 40.0 dB as served" in decision.reason.text
    (step,) = repairing.steps
    assert (step.why, step.nodes, step.taken) == ("kernel-fault", ("m3",), True)


def test_the_rule_alone_gives_the_same_plan_and_model_again(workshop):
    draft, _ = improved(workshop, Kernels({"m3": 1e-2, "m1": 1e-3}))
    again = workshop(Recipe.parse(draft.recipe.plain()))
    assert again.plan == draft.plan
    assert ir.to_proto(again.model) == ir.to_proto(draft.model)


def test_as_few_nodes_as_it_takes(workshop):
    """Nodes of one kind share a fault, but what two of them add is within a decibel."""
    draft, _ = improved(workshop, Kernels({"m1": 1e-2, "m2": 1e-6}))
    assert reasons(draft) == {"m1"}


def test_nodes_of_several_kinds_are_repaired_one_kind_after_the_other(workshop):
    draft, repairing = improved(workshop, Kernels({"m1": 1e-2, "m2": 1e-2, "m3": 3e-3, "m4": 2e-3}))
    assert reasons(draft) == {"m1", "m2", "m3", "m4"}
    assert all(step.taken for step in repairing.steps)


def test_a_kind_that_is_the_smaller_part_of_what_is_wrong_is_repaired_all_the_same(workshop):
    """Three kinds add as much each: none closes the gap alone, but each is right at its own nodes."""
    draft, repairing = improved(workshop, Kernels({"m1": 1e-2, "m2": 1e-2, "m3": 2e-2, "m4": 2e-2}))
    assert reasons(draft) == {"m1", "m2", "m3", "m4"}
    assert all(entry.action == "quantize" for entry in draft.plan.decisions if entry.op == "MatMul")
    assert all(step.taken for step in repairing.steps)


def test_what_is_wrong_in_every_form_goes_back_to_float(workshop):
    draft, _ = improved(workshop, Kernels({"m3": 1e-2}, (ir.DataType.INT8, ir.DataType.UINT8)))
    assert reasons(draft) == {"m3"}
    decision = next(entry for entry in draft.plan.decisions if entry.node == "m3")
    assert decision.format in (None, "weight-only")


@pytest.mark.parametrize(("faster", "prefer", "kept"), [(True, "speed", "keep"), (False, "speed", "quantize")])
def test_float_is_taken_where_it_is_faster_than_the_form_that_is_right(workshop, faster, prefer, kept):
    draft, _ = improved(workshop, Kernels({"m3": 1e-2}), faster=lambda model, base: faster, prefer=prefer)
    assert next(entry.action for entry in draft.plan.decisions if entry.node == "m3") == kept


def test_whoever_prefers_size_keeps_the_codes(workshop):
    def never(model, base):
        raise AssertionError("nothing to race")

    draft, _ = improved(workshop, Kernels({"m3": 1e-2}), faster=never, prefer="size")
    assert next(entry.action for entry in draft.plan.decisions if entry.node == "m3") == "quantize"


def test_what_cannot_be_repaired_is_said(workshop):
    class Hopeless(Kernels):
        def gap(self, model, *, rounding=True):
            return Gap(output="y", plain=40.0, served=20.0, allowed=1.0)

    draft, repairing = improved(workshop, Hopeless({"m3": 1e-2}))
    assert draft is workshop.made[0]
    (step,) = repairing.steps
    assert (step.taken, step.nodes) == (False, ("m3",))
    assert "no other form" in step.text


@pytest.mark.parametrize("noise", [1e-2, math.inf])
def test_what_changes_nothing_at_its_nodes_is_no_repair(workshop, noise):
    """Two nodes compute one tensor, which stays as wrong as it was; elsewhere a thousandth of a decibel is won."""

    class Unmoved(Kernels):
        def gap(self, model, *, rounding=True):
            self.asked += 1
            return Gap(output="y", plain=40.0, served=20.0 if self.asked == 1 else 20.001, allowed=1.0)

        def departures(self, model, *, rounding=True):
            return [Departure(tensor="b", noise=noise, nodes=("m1", "m2"), ran=())]

    draft, repairing = improved(workshop, Unmoved({}))
    assert draft is workshop.made[0]
    assert [(step.taken, step.nodes) for step in repairing.steps] == [(False, ("m1", "m2"))]


class Slow(Kernels):
    """Kernels whose every measurement takes some seconds."""

    def __init__(self, wrong: dict[str, float], seconds: float, **options) -> None:
        super().__init__(wrong, **options)
        self.now, self.seconds = 0.0, seconds

    def clock(self) -> float:
        return self.now

    def gap(self, model, *, rounding=True):
        self.now += self.seconds
        return super().gap(model, rounding=rounding)


@pytest.mark.parametrize(("seconds", "tries"), [(1, 6), (50, 2), (500, 1)])
def test_forms_are_tried_while_there_is_time_and_one_always(workshop, seconds, tries):
    """Three forms of each of two kinds; 120 seconds for all, the measurement before them included."""

    class Hopeless(Slow):
        def gap(self, model, *, rounding=True):
            return replace(super().gap(model, rounding=rounding), served=20.0)

    kernels = Hopeless({"m1": 1e-2, "m3": 1e-2}, seconds)
    draft, repairing = improved(workshop, kernels, clock=kernels.clock)
    assert draft is workshop.made[0]
    assert kernels.asked == 1 + tries
    (step,) = repairing.steps
    assert not step.taken
    assert ("no time was left" in step.text) is (tries < 6)


def test_a_form_that_is_right_is_taken_without_a_race_where_no_time_is_left(workshop):
    def never(model, base):
        raise AssertionError("no time to race")

    kernels = Slow({"m3": 1e-2}, 500)
    draft, repairing = improved(workshop, kernels, faster=never, clock=kernels.clock)
    assert reasons(draft) == {"m3"}
    assert [step.taken for step in repairing.steps] == [True]


def test_a_model_that_is_served_better_is_left_alone(workshop):
    class Better(Kernels):
        def gap(self, model, *, rounding=True):
            return Gap(output="y", plain=20.0, served=40.0, allowed=1.0)

    assert improved(workshop, Better({"m3": 1e-2}))[0] is workshop.made[0]


def test_what_other_guards_change_is_measured_again(workshop):
    """m4 runs right only as long as m3 is quantized, and m3 is noisy: the guard for errors puts it in float."""

    class Beside(Kernels):
        def faulty(self, model):
            return {} if "m3" in weights(model, ir.DataType.INT8) else super().faulty(model)

    class Noisy:
        def shortfall(self, model):
            return "too noisy" if "m3" in weights(model, ir.DataType.INT8) else None

        def noise(self, draft):
            return {"m3": 1.0}

    class Free:
        def race(self, models, threads, budget=None):
            from onnxq.runtime.timing import RaceTimes

            return RaceTimes(seconds=np.ones((5, len(models))) * np.linspace(2, 1, len(models)))

        def times(self, model, threads):
            return {}

    draft, _ = guard(
        workshop(Recipe()),
        workshop,
        original=workshop.model,
        prepared=workshop.model,
        threads=(1,),
        prefer="size",
        read_back=False,
        quality=Noisy(),
        fidelity=Beside({"m4": 1e-2}),
        measure=Free(),
    )
    assert (reasons(draft, "error"), reasons(draft)) == ({"m3"}, {"m4"})


def test_forms_are_tried_nearest_first():
    def names(text=TEXT, node="m1", **options):
        done = quantize_text(text, **options)
        return [form.name for form in forms_of(done.decision(node), done.plan, portable=False)]

    assert names() == ["uint8 weights", "8-bit weights alone", "in float"]
    assert names(activations="int8")[:2] == ["uint8 weights", "uint8 activations"]
    assert names(weights="uint8") == ["8-bit weights alone", "in float"]
    assert names(format="weight-only") == ["accuracy level 1", "symmetric weights", "in float"]
    assert names(format="weight-only", accuracy_level=1, weights="int8,symmetric") == ["in float"]
