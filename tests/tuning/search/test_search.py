"""The search: what it takes, that its recipe repeats it, that it goes on where it stopped, and what it refuses."""

import json
import math
import sys
from types import ModuleType

import numpy as np
import onnx_ir as ir
import onnxq
import pytest
from onnxq.cli import main
from onnxq.errors import RecipeError, VerificationError
from onnxq.graph.text import model_from_text
from tests.support.small_network import NET, images

# Wide layers with one in their midst whose weights are of very different sizes, so that 4 bits spoil it.
TEXT = """
<ir_version: 10, opset_import: ["" : 17]>
g (float[batch,64] x) => (float[batch,32] y)
<float[64,64] w1, float[64,64] w2, float[64,64] w3, float[64,32] w4>
{
  [m1] a = MatMul (x, w1)  [t1] ta = Tanh (a)
  [m2] b = MatMul (ta, w2)  [t2] tb = Tanh (b)
  [m3] c = MatMul (tb, w3)  [t3] tc = Tanh (c)
  [m4] y = MatMul (tc, w4)
}
"""
FOUR_BITS = "weight-only:uint4,asymmetric,per-block(32)"
SIZE = {"format": "weight-only", "weights": "int8,per-channel", "prefer": "size", "guard": False}


@pytest.fixture
def model():
    rng = np.random.default_rng(0)
    made = model_from_text(TEXT)
    for name, value in made.graph.initializers.items():
        weight = (rng.standard_normal(tuple(value.shape)) / 8).astype(np.float32)
        if name == "w2":
            weight[::7] *= 30
        value.const_value = ir.tensor(weight, name=name)
    return made


@pytest.fixture
def feeds():
    return {"x": np.random.default_rng(1).standard_normal((40, 64)).astype(np.float32)}


@pytest.fixture
def folder(tmp_path, monkeypatch, model, feeds):
    monkeypatch.chdir(tmp_path)
    ir.save(model, "net.onnx")
    np.savez("data.npz", **feeds)
    return tmp_path


@pytest.fixture
def metrics():
    """A module of metrics; what is set on it can be named in a recipe."""
    sys.modules["metrics_of_a_test"] = module = ModuleType("metrics_of_a_test")
    yield module
    del sys.modules["metrics_of_a_test"]


def sqnr(report):
    return report.verification.outputs[0].sqnr_served


def ways_of(report):
    chosen = report.search.tried[report.search.chosen]
    names = (*report.search.ways, "float")
    return {unit[0]: names[way] for unit, way in zip(report.search.units, chosen.ways, strict=True)}


def test_the_smallest_within_the_error_is_taken(model, feeds):
    """Of the 3^4 models, made one by one, none within the budget is smaller."""
    report = onnxq.quantize(model, calibration=[feeds], min_sqnr=18.0, search=[FOUR_BITS], **SIZE)
    found = report.search
    assert found.ways == ("as asked", FOUR_BITS)
    assert sqnr(report) >= 18.0
    assert found.tried[found.chosen].outputs["y"] == pytest.approx(sqnr(report), abs=1e-6)
    assert {"as asked", FOUR_BITS} <= set(ways_of(report).values())
    smallest = math.inf
    noise = {(each.unit, each.way): (each.noise, each.saved) for each in found.alone}
    for code in range(3**4):
        ways = [code // 3**unit % 3 - 1 for unit in range(4)]
        picked = [noise[unit, way] for unit, way in enumerate(ways) if way >= 0]
        if sum(each for each, _ in picked) <= 10**-1.8 * 0.9:  # with room for what does not add up
            smallest = min(smallest, found.float_bytes - sum(saved for _, saved in picked))
    assert found.tried[found.chosen].bytes <= smallest


def test_all_is_taken_where_all_is_good_enough(model, feeds):
    report = onnxq.quantize(model, calibration=[feeds], min_sqnr=-50, search=[FOUR_BITS], **SIZE)
    assert set(ways_of(report).values()) == {FOUR_BITS}


def test_the_reports_recipe_repeats_the_bytes(folder, capsys):
    words = ["--calibration", "data.npz", "--prefer", "size", "--search", FOUR_BITS, "--search", "int8-weights"]
    assert main(["quantize", "net.onnx", *words, "--min-sqnr", "18", "-o", "found.onnx", "--picture", "front.png"]) == 0
    assert "models tried" in capsys.readouterr().out
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")
    assert not list(folder.glob(".*.search"))
    saved = json.loads((folder / "found.report.json").read_text())
    assert saved["search"]["tried"][saved["search"]["chosen"]]["shortfall"] is None
    assert main(["quantize", "net.onnx", "--recipe", "found.report.json", "-o", "again.onnx"]) == 0
    assert (folder / "again.onnx").read_bytes() == (folder / "found.onnx").read_bytes()


def test_an_interrupted_search_goes_on_where_it_stopped(folder, metrics, capsys):
    calls = 0

    def closeness(run):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return float(np.abs(run({"x": np.ones((1, 64), np.float32)})["y"]).sum())

    metrics.closeness = closeness
    options = SIZE | {"calibration": "data.npz", "search": [FOUR_BITS], "metric": "metrics_of_a_test:closeness"}
    with pytest.raises(KeyboardInterrupt):
        onnxq.quantize("net.onnx", "out.onnx", max_drop="20%", **options)
    assert (folder / ".out.search").is_file()
    assert not (folder / "out.onnx").exists()
    calls = 3
    words = [
        "--calibration",
        "data.npz",
        "--format",
        "weight-only",
        "--weights",
        "int8,per-channel",
        "--prefer",
        "size",
    ]
    more = ["--search", FOUR_BITS, "--metric", "metrics_of_a_test:closeness", "--max-drop", "20%", "--no-guard"]
    assert main(["quantize", "net.onnx", "-o", "out.onnx", *words, *more]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    report = onnxq.quantize("net.onnx", "out.onnx", max_drop="20%", **options)
    assert report.search.resumed > 8  # each of four layers two ways, and models
    assert not (folder / ".out.search").exists()


def test_what_was_measured_for_something_else_is_not_taken_over(folder):
    options = SIZE | {"calibration": "data.npz", "search": [FOUR_BITS], "min_sqnr": 24.0}
    (folder / ".out.search").write_text('{"version": 1, "key": "of another", "entries": {"times float": 3}}')
    assert onnxq.quantize("net.onnx", "out.onnx", **options).search.resumed == 0
    (folder / ".again.search").write_text("not even JSON")
    assert onnxq.quantize("net.onnx", "again.onnx", **options).search.resumed == 0


def test_statistics_of_an_earlier_calibration_do_with_the_data_beside_them(folder):
    onnxq.calibrate("net.onnx", "net.stats", calibration="data.npz")
    options = {
        "calibration": "data.npz",
        "search": ["weight-only:uint4,method=gptq"],
        "min_sqnr": 10.0,
        "prefer": "size",
    }
    report = onnxq.quantize("net.onnx", statistics="net.stats", guard=False, **options)
    again = onnxq.quantize("net.onnx", guard=False, **options)
    assert report.quantized_bytes == again.quantized_bytes
    assert sqnr(report) == sqnr(again)


def test_a_budget_that_nothing_meets_tells_what_comes_nearest(folder, capsys):
    words = ["--calibration", "data.npz", "--prefer", "size", "--search", FOUR_BITS, "--min-sqnr", "90"]
    assert main(["quantize", "net.onnx", *words]) == 1
    error = capsys.readouterr().err
    assert "no quantized model is within the budget (every output at least 90 dB)" in error
    assert "the nearest: " in error
    assert "what was measured is kept for a search with another budget" in error
    assert sorted(path.name for path in folder.iterdir()) == [".net.int8.search", "data.npz", "net.onnx"]
    assert main(["quantize", "net.onnx", *words[:-1], "18", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["search"]["resumed"] >= 10
    assert not (folder / ".net.int8.search").exists()


def test_a_budget_that_float_itself_does_not_meet():
    """As served, the runtime adds up convolutions in another order."""
    with pytest.raises(VerificationError, match="the float model itself is not within the limits: output 'scores' is"):
        onnxq.quantize(model_from_text(NET), calibration=[{"image": images()}], min_sqnr=500, search=["auto"])


def test_a_metric_that_becomes_nan_costs_a_model_and_not_the_search(model, feeds, metrics):
    plain = onnxq.quantize(model, calibration=[feeds], **SIZE, check=False)
    assert plain.model is not None

    def moody(run):
        y = run(feeds)["y"]
        exact = moody.first is None or np.abs(y - moody.first).max() < 0.2
        moody.first = y if moody.first is None else moody.first
        return 1.0 if exact else math.nan

    moody.first = None
    metrics.moody = moody
    report = onnxq.quantize(
        model,
        calibration=[feeds],
        metric="metrics_of_a_test:moody",
        max_drop=0.0,
        search=[FOUR_BITS],
        **SIZE,
    )
    assert any(row.metric is not None and math.isnan(row.metric) for row in report.search.tried)
    assert report.search.tried[report.search.chosen].metric == 1.0


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        (lambda run: 1 / 0, "metric .* failed on the float model: ZeroDivisionError"),
        (lambda run: math.nan, "returned nan on the float model; it should return a finite number"),
    ],
)
def test_a_metric_that_fails_on_the_float_model(model, feeds, metrics, fails, message):
    metrics.fails = fails
    with pytest.raises(RecipeError, match=message):
        onnxq.quantize(model, calibration=[feeds], metric="metrics_of_a_test:fails", max_drop=0.1, search=["auto"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search": ["auto"]}, "a search needs a limit"),
        ({"search": ["int9"], "min_sqnr": 20}, "did you mean 'int8'"),
        ({"search": ["weight-only:uint5"], "min_sqnr": 20}, r"search 'weight-only:uint5': .*uint5"),
        ({"search": ["int8-everywhere"], "min_sqnr": 20}, "it says `placement`, which is about the whole model"),
        ({"search": ["qoperator"], "min_sqnr": 20}, "a model holds one of them"),
        ({"search": ["auto"], "min_sqnr": 20, "tries": 0}, "recipe: tries"),
    ],
)
def test_what_a_search_cannot_do(model, feeds, options, message):
    with pytest.raises(RecipeError, match=message):
        onnxq.quantize(model, calibration=[feeds], **options)


def test_a_picture_without_a_search(model, tmp_path):
    with pytest.raises(RecipeError, match="no search was asked for"):
        onnxq.quantize(model, picture=tmp_path / "front.png")


def test_a_recipe_with_a_search_round_trips():
    recipe = onnxq.Recipe.parse({"search": ["auto", FOUR_BITS], "tries": 7, "min_sqnr": 20, "opset": 21})
    assert onnxq.Recipe.parse(recipe.plain()) == recipe
