"""Measured costs: what is kept, what plans make of it, and that a report repeats the plan anywhere."""

import json
from dataclasses import replace

import numpy as np
import onnxq
import pytest
from onnxq.errors import RecipeError
from onnxq.files.costs import cost_file, load_costs, save_costs
from onnxq.graph.text import model_from_text
from onnxq.proofs import measure as measure_costs
from onnxq.proofs.measure import measure
from onnxq.targets import targets, with_costs
from onnxq.targets.processor import this_processor
from onnxq.types.costs import Costs, CostTable
from onnxq.types.plan import Action
from onnxq.types.recipe import Recipe
from tests.support.quantizing import text

COSTS = Costs(
    source="a slow machine",
    quantize=1e6,
    dequantize=1e6,
    float_mac=1.0,
    quantized_mac=0.5,
    quantized_output=0.0,
    run_time_quantize=1e9,
    run_time_output=0.0,
    run_time_node=0.0,
    operators={"Sigmoid": (1.0, 2.0)},
)
MODEL = text("s = Sigmoid (x) y = MatMul (s, w)", "float[16,64] x", "float[16,32] y", "float[64,32] w")
HERE = this_processor().target


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Keep costs for this machine, in a folder of their own."""
    monkeypatch.setenv("ONNXQ_COSTS", str(tmp_path))
    import onnxruntime

    table = CostTable(
        target=HERE, processor=str(this_processor()), onnxruntime=onnxruntime.__version__, costs=COSTS, kernels=()
    )
    save_costs(table)
    return table


def planned(**options):
    return onnxq.plan(model_from_text(MODEL), calibration=[{"x": np.ones((16, 64), np.float32)}], **options)


def test_what_was_kept_is_found_again(kept):
    assert load_costs(HERE) == kept
    assert load_costs("cpu-arm64" if HERE != "cpu-arm64" else "cpu-avx2") is None


def test_a_broken_file_is_named_with_what_to_do(kept):
    path = cost_file(HERE, kept.onnxruntime)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(RecipeError, match="measure again"):
        planned()
    path.write_text(json.dumps({"target": HERE, "cost": {}}), encoding="utf-8")
    with pytest.raises(RecipeError, match="unknown key 'cost'"):
        planned()


def test_plans_go_by_what_was_measured_and_say_so(kept):
    assert planned().times == "a slow machine"
    assert planned(costs="none").times == targets.get(HERE).timing.source
    (product,) = [entry for entry in planned(format="dynamic").decisions if entry.op == "MatMul"]
    assert product.action is Action.KEEP
    assert product.reason.code == "cheaper-in-float"


def test_a_report_repeats_the_plan_where_nothing_was_measured(kept, tmp_path, monkeypatch):
    data = [{"x": np.ones((16, 64), np.float32)}]
    report = onnxq.quantize(model_from_text(MODEL), calibration=data, check=False)
    assert report.recipe["costs"]["source"] == "a slow machine"
    monkeypatch.setenv("ONNXQ_COSTS", str(tmp_path / "empty"))
    again = onnxq.quantize(model_from_text(MODEL), calibration=data, recipe=report.recipe, check=False)
    assert again.plan == report.plan
    assert again.recipe == report.recipe


def test_costs_replace_the_times_of_a_target():
    timed = with_costs(targets.get("cpu"), COSTS)
    assert timed.timing.quantize == 1e6
    assert timed.timing.source == "a slow machine"
    times = {row.op: (row.float_ns, row.quantized_ns) for row in timed.rows}
    assert times["Sigmoid"] == (1.0, 2.0)
    assert times["Add"] == {row.op: (row.float_ns, row.quantized_ns) for row in targets.get("cpu").rows}["Add"]


def test_costs_in_a_recipe_survive_being_written_down():
    recipe = Recipe.parse({"costs": COSTS})
    assert Recipe.parse(json.loads(json.dumps(recipe.plain()))).costs == COSTS
    with pytest.raises(RecipeError, match="costs"):
        Recipe.parse({"costs": "fast"})


def test_measuring_fills_every_slope(monkeypatch):
    few = [case for case in measure_costs._cases() if case.shape in ("16x384x1536", "128x14x14, 3x3", "128x384x384")]
    monkeypatch.setattr(measure_costs, "_cases", lambda: iter(few))
    monkeypatch.setattr(measure_costs, "_RUNS", 3)
    found = measure("cpu")
    assert found.target == HERE
    for name in ("quantize", "dequantize", "float_mac", "quantized_mac", "run_time_quantize"):
        assert getattr(found.costs, name) > 0
    assert {"Add", "Mul", "Sigmoid", "Concat", "Transpose"} <= found.costs.operators.keys()
    assert {entry.form for entry in found.kernels} == {"float", "u8s8", "u8u8", "dynamic", "weight-only"}


def test_slopes_are_those_that_made_the_times():
    rng = np.random.default_rng(0)
    counts = rng.uniform(1, 1e6, (6, 2))
    points = [(row, float(row @ [0.01, 2.0])) for row in counts]
    np.testing.assert_allclose(measure_costs._slopes(points), [0.01, 2.0], rtol=1e-6)


def test_another_machine_cannot_be_measured_here():
    other = "cpu-avx2" if HERE != "cpu-avx2" else "cpu-vnni"
    with pytest.raises(RecipeError, match=f"measure '{HERE}'"):
        measure(other)
    assert replace(COSTS, source="") != COSTS
