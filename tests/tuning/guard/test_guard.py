"""The guard with a clock and a judge that say what they are told: nothing here depends on the machine's speed."""

import numpy as np
import pytest
from onnxq.errors import CalibrationError
from onnxq.graph.tensors import total_bytes
from onnxq.graph.text import model_from_text
from onnxq.tuning.budget import too_noisy
from onnxq.tuning.guard import guard
from onnxq.tuning.guard import run as guard_run
from onnxq.tuning.guard.latency import SpeedGuard
from onnxq.types.guarding import Verdict
from onnxq.types.recipe import Recipe
from tests.support.tuning import Clock, Workshop

FASTER = dict.fromkeys(("m1", "m2", "m3", "m4"), (2.0, 1.0))


def run(workshop, prices=FASTER, *, recipe=None, quality=None, prefer="speed", threads=(1,), **clock):
    measure = None if prices is None else Clock(workshop.model, prices, **clock)
    first = workshop(recipe or Recipe())
    return guard(
        first,
        workshop,
        original=workshop.model,
        prepared=workshop.model,
        threads=threads,
        prefer=prefer,
        read_back=False,
        quality=quality,
        measure=measure,
    )


def kept(draft):
    return {entry.node for entry in draft.plan.decisions if entry.reason.code in ("slower", "error", "unfused")}


def test_what_is_faster_everywhere_stays(workshop):
    draft, found = run(workshop)
    assert (found.verdict, kept(draft), found.steps) == (Verdict.KEPT, set(), ())
    assert found.races[0].speedup == pytest.approx(2)
    assert len(workshop.made) == 1


def test_a_region_that_loses_time_goes_back_and_the_rule_says_so(workshop):
    draft, found = run(workshop, FASTER | {"m3": (2.0, 3.5), "m4": (1.5, 1.6)})
    assert kept(draft) == {"m3", "m4"}
    assert found.verdict is Verdict.KEPT
    assert found.races[0].speedup == pytest.approx(7.5 / 5.5)
    (rule,) = draft.recipe.rules
    assert (rule.match.name, rule.keep) == (("m3", "m4"), "slower")
    assert "5.1 ms quantized, 3.5 ms in float" in rule.because
    assert next(entry for entry in draft.plan.decisions if entry.node == "m3").reason.text == rule.because


def test_a_part_of_a_region_goes_back_alone(workshop):
    draft, _ = run(workshop, FASTER | {"m4": (0.5, 1.2)})
    assert kept(draft) == {"m4"}


def test_of_a_region_that_loses_only_the_losers_go_back_where_that_is_better(workshop):
    draft, found = run(workshop, FASTER | {"m3": (2.0, 3.5), "m4": (1.5, 1.0)})
    assert kept(draft) == {"m3"}
    assert sorted(step.nodes for step in found.steps) == [("m3",), ("m3", "m4")]


def test_layers_of_one_kind_are_decided_together(workshop):
    draft, found = run(workshop, FASTER | {"m1": (2.0, 2.1), "m2": (2.0, 2.3)})
    assert kept(draft) == {"m1", "m2"}
    assert "2 groups like it" in found.steps[0].text


def test_a_suspicion_that_does_not_hold_changes_nothing(workshop):
    """By its own time m3 loses; without it m4 would have to quantize what it reads itself."""
    prices = FASTER | {"m3": (1.0, 1.2), "m4": (3.0, 1.0)}

    class Dear(Clock):
        def race(self, models, threads, budget=None):
            timing = super().race(models, threads)
            dear = [1.0 + any(node.name == "c/quantized/QuantizeLinear" for node in m.graph) for m in models]
            in_float = [
                not any(v.name.startswith("w3") and "quant" in v.name for v in m.graph.initializers.values())
                for m in models
            ]
            penalty = np.array([d if f else 1.0 for d, f in zip(dear, in_float, strict=True)])
            return type(timing)(seconds=timing.seconds * penalty)

    draft, found = guard(
        workshop(Recipe()),
        workshop,
        original=workshop.model,
        prepared=workshop.model,
        threads=(1,),
        read_back=False,
        measure=Dear(workshop.model, prices),
    )
    assert kept(draft) == set()
    assert [step.taken for step in found.steps] == [False] * len(found.steps)


def test_differences_within_the_noise_decide_nothing(workshop):
    loss = FASTER | {"m4": (2.0, 2.2)}
    assert kept(run(workshop, loss)[0]) == {"m4"}
    draft, found = run(workshop, loss, noise=0.05)  # the third run takes 10 % longer than the first
    assert kept(draft) == set()
    assert found.races[0].noise == pytest.approx(0.1)


def test_a_model_that_is_slower_altogether_becomes_the_float_model(workshop):
    slow = dict.fromkeys(FASTER, (1.0, 1.5))
    draft, found = run(workshop, slow)
    assert found.verdict is Verdict.FLOAT
    assert "every quantized node" in found.message
    assert draft.quantized == ()
    assert all(node.op_type in ("MatMul", "Tanh") for node in draft.model.graph)


def test_a_loss_that_no_node_shows_becomes_the_float_model_too(workshop):
    class Overhead(Clock):
        def race(self, models, threads, budget=None):
            timing = super().race(models, threads)
            extra = [any(node.op_type == "QuantizeLinear" for node in model.graph) for model in models]
            return type(timing)(seconds=timing.seconds + 0.1 * np.array(extra))

    draft, found = guard(
        workshop(Recipe()),
        workshop,
        original=workshop.model,
        prepared=workshop.model,
        threads=(1,),
        read_back=False,
        measure=Overhead(workshop.model, FASTER),
    )
    assert (found.verdict, draft.quantized) == (Verdict.FLOAT, ())
    assert "slower than float: 0.0" in found.message
    assert "--prefer size" in found.message


def test_a_race_that_was_disturbed_once_decides_nothing(workshop):
    class Disturbed(Clock):
        def race(self, models, threads, budget=None):
            timing = super().race(models, threads)
            return type(timing)(seconds=timing.seconds * np.array([1.0, 9.0 if len(self.races) == 1 else 1.0]))

    measure = Disturbed(workshop.model, FASTER)
    draft, found = guard(
        workshop(Recipe()),
        workshop,
        original=workshop.model,
        prepared=workshop.model,
        threads=(1,),
        read_back=False,
        measure=measure,
    )
    assert (found.verdict, len(draft.quantized)) == (Verdict.KEPT, 4)
    assert len(measure.races) == 2
    assert found.races[0].speedup == pytest.approx(2)


def test_after_half_a_minute_nothing_new_is_tried(workshop):
    seconds = iter(range(0, 1000, 40))
    speed = SpeedGuard(
        original=workshop.model,
        prepared=workshop.model,
        make=workshop,
        measure=Clock(workshop.model, FASTER | {"m4": (2.0, 3.0)}),
        threads=(1,),
        clock=lambda: next(seconds),
    )
    first = workshop(Recipe())
    assert speed.improve(first) is first
    assert speed.steps == []


def test_whoever_prefers_size_is_told_what_it_costs(workshop):
    draft, found = run(workshop, dict.fromkeys(FASTER, (1.0, 1.5)), prefer="size")
    assert (found.verdict, kept(draft)) == (Verdict.SLOWER, set())
    assert "0.67x" in found.message


def test_slower_at_one_thread_count_is_slower(workshop):
    """One thread: 2x. All cores: half of that again, and only quantized nodes pay for it."""
    _, found = run(workshop, threads=(1, 0), at=lambda threads: 3.0 if threads == 0 else 1.0)
    assert found.verdict is Verdict.FLOAT
    assert "all cores" in found.message
    assert run(workshop, threads=(1,), at=lambda threads: 3.0 if threads == 0 else 1.0)[1].verdict is Verdict.KEPT


@pytest.mark.parametrize("seed", range(3))
def test_of_20_mixed_layers_the_guard_finds_the_best_of_300_configurations(seed):
    """Each layer has a shape, and so a kind, of its own; some gain from integers and some lose."""
    rng = np.random.default_rng(seed)
    names = [f"m{index}" for index in range(20)]
    layers = [
        f"[m{index}] a{index} = MatMul ({f't{index}' if index else 'x'}, w{index})  t{index + 1} = Tanh (a{index})"
        for index in range(20)
    ]
    weights = ", ".join(f"float[{4 + index},{5 + index}] w{index}" for index in range(20))
    text = (
        '<ir_version: 9, opset_import: ["" : 17]>\n'
        f"g (float[2,4] x) => (float[2,24] y) <{weights}> {{ {' '.join(layers).replace('t20', 'y')} }}"
    )
    shop = Workshop(model_from_text(text), {"x": rng.standard_normal((2, 4)).astype(np.float32)})
    prices = {name: (1.0, float(rng.choice([0.4, 0.8, 1.3, 2.5]))) for name in names}
    draft, _ = run(shop, prices)

    def cost(kept_in_float):
        return sum(prices[name][name not in kept_in_float] for name in names)

    sampled = min(cost({name for name in names if rng.random() < 0.5}) for _ in range(300))
    assert 0 < len(kept(draft)) < 20
    assert cost(kept(draft)) <= sampled


def test_what_the_runtime_leaves_in_float_loses_its_codes(workshop, monkeypatch):
    """Until nothing more turns up: without m3 quantized m4 is not fused either."""
    answers = [{"m3": "MatMul in float"}, {"m4": "MatMul in float"}, {}]
    monkeypatch.setattr(guard_run, "unfused", lambda *_, **__: answers.pop(0))
    draft, found = guard(
        workshop(Recipe()), workshop, original=workshop.model, prepared=workshop.model, threads=(1,), measure=None
    )
    assert answers == []
    assert kept(draft) == {"m3", "m4"}
    assert draft.quantized == ("m1", "m2")
    assert [(step.why, step.nodes) for step in found.steps] == [("unfused", ("m3",)), ("unfused", ("m4",))]
    assert draft.recipe.rules[0].because == "planned for integers, but runs as MatMul in float"


def test_what_is_faster_and_no_longer_good_enough_is_not_taken(workshop):
    """The error of m4 makes up for that of others."""
    prices = FASTER | {"m4": (2.0, 2.8)}
    assert kept(run(workshop, prices)[0]) == {"m4"}

    class Cancelling:
        def shortfall(self, model):
            codes = {
                use.node.name
                for node in model.graph
                if node.op_type == "DequantizeLinear"
                for use in node.outputs[0].uses()
            }
            return None if "m4" in codes else "m4 is missed"

        def noise(self, draft):
            return {}

    draft, found = run(workshop, prices, quality=Cancelling())
    assert kept(draft) == set()
    assert any("not good enough" in step.text and not step.taken for step in found.steps)


def test_without_a_clock_nothing_is_said_about_time(workshop):
    draft, found = run(workshop, None)
    assert (found.verdict, found.races, kept(draft)) == (Verdict.KEPT, (), set())


def test_a_try_that_lacks_statistics_is_given_up(workshop):
    first = workshop(Recipe())

    def make(recipe):
        raise CalibrationError("not observed")

    draft, found = guard(
        first,
        make,
        original=workshop.model,
        prepared=workshop.model,
        threads=(1,),
        read_back=False,
        measure=Clock(workshop.model, FASTER | {"m4": (2.0, 3.0)}),
    )
    assert draft is first
    assert found.verdict is Verdict.KEPT


class Judge:
    """Content once enough of the noise is gone."""

    def __init__(self, noise, most):
        self.by_node, self.most, self.asked = noise, most, 0

    def shortfall(self, model):
        self.asked += 1
        left = sum(
            noise
            for node, noise in self.by_node.items()
            if any(
                each.name == node
                and each.inputs[0].producer() is not None
                and each.inputs[0].producer().op_type == "DequantizeLinear"
                for each in model.graph
            )
        )
        return f"{left:g} is too much" if left > self.most else None

    def noise(self, draft):
        return self.by_node


@pytest.mark.parametrize(
    ("most", "expected"),
    [(10, set()), (6.5, {"m2"}), (2.5, {"m2", "m4"}), (1, {"m2", "m4", "m1"}), (0, {"m1", "m2", "m3", "m4"})],
)
def test_the_worst_go_back_until_it_is_good_enough(workshop, most, expected):
    """Each adds its own noise to what it reads; m4 reads m3."""
    judge = Judge({"m1": 1.5, "m2": 3.0, "m3": 1.0, "m4": 4.0}, most)
    judge.noise = lambda draft: {"m1": 1.5, "m2": 4.5, "m3": 5.5, "m4": 8.0}
    draft, found = run(workshop, quality=judge)
    assert kept(draft) == expected
    if expected:
        assert {entry.reason.code for entry in draft.plan.decisions if entry.node in expected} == {"error"}
        assert "is too much" in found.steps[0].text


def test_an_output_that_is_nan_reaches_no_limit():
    assert too_noisy("y", 20.0, 20.0) is None
    assert too_noisy("y", 19.9, 20.0) == "output 'y' is 19.9 dB as served, below the 20 dB asked for"
    assert too_noisy("y", float("nan"), -1000.0) is not None


def test_what_is_slower_and_larger_is_kept_by_nobody():
    """Of small weights Q and DQ take more room than the codes save, though the tensors alone get smaller."""
    model = model_from_text(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[8,4] x) => (float[8,4] y) <float[4,4] w1, float[4,4] w2> '
        "{ [m1] a = MatMul (x, w1) [t1] t = Tanh (a) [m2] y = MatMul (t, w2) }"
    )
    small = Workshop(model=model, feeds={"x": np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)})
    first = small(Recipe())
    assert total_bytes(first.model) < total_bytes(model)
    draft, found = run(small, dict.fromkeys(("m1", "m2"), (1.0, 1.5)), prefer="size")
    assert (found.verdict, draft.quantized) == (Verdict.FLOAT, ())
    assert "and larger" in found.message
    assert "--prefer size" not in found.message
