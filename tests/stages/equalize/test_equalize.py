"""The stage as a user meets it: what it changes, what it records, what it refuses."""

import dataclasses

import numpy as np
import onnx_ir as ir
import onnxq
import pytest
from onnxq.errors import CalibrationError, RecipeError
from onnxq.files.plan import plan_from_json, plan_to_json
from onnxq.graph.text import model_from_text
from onnxq.pipeline.log import Log
from onnxq.pipeline.preparing import equalized, prepare_model
from onnxq.pipeline.request import make_request
from onnxq.runtime.session import run_model
from onnxq.types.plan import Action
from onnxq.types.recipe import Recipe
from tests.support.quantizing import text

BLOCK = (
    "n = LayerNormalization (x, g) a = MatMul (n, w) r = Relu (a) b = MatMul (r, v) s = Add (b, x)"
    " t = Tanh (s) c = MatMul (t, u) d = MatMul (t, k) e = Add (c, d) y = Add (e, t)"
)
WEIGHTS = "float[64] g, float[64,96] w, float[96,64] v, float[64,64] u, float[64,64] k"


@pytest.fixture(scope="module")
def model():
    made = model_from_text(text(BLOCK, "float[batch,16,64] x", "float[batch,16,64] y", WEIGHTS))
    rng = np.random.default_rng(0)
    for value in made.graph.initializers.values():
        array = rng.standard_normal(value.shape.numpy()).astype(np.float32) / 8
        array = array + np.float32(1) if value.name == "g" else array
        if value.name == "g":
            array[[5, 33]] *= 50  # two features stand out behind the norm
            array[0] = -1
        if value.name == "w":
            array[[5, 33]] /= 50
            array[:, 7] *= 20
        if value.name == "v":
            array[7] /= 20
        value.const_value = ir.tensor(array, name=value.name)
    return made


@pytest.fixture(scope="module")
def data():
    return [{"x": np.random.default_rng(seed).standard_normal((2, 16, 64)).astype(np.float32)} for seed in range(6)]


OPTIONS = {"equalize": ["smoothquant"], "guard": False, "placement": "everywhere", "calibrator": "minmax"}


@pytest.fixture(scope="module")
def report(model, data):
    return onnxq.quantize(model, calibration=data, **OPTIONS)


def test_the_error_falls_as_served(model, data, report):
    plain = onnxq.quantize(model, calibration=data, **OPTIONS | {"equalize": []})
    (before,), (after,) = plain.verification.outputs, report.verification.outputs
    assert after.sqnr_served > before.sqnr_served + 6
    assert after.sqnr_plain > before.sqnr_plain + 6


def test_every_place_is_in_the_plan_with_its_reason(report):
    found = {entry.tensor: entry for entry in report.plan.equalizations}
    assert found["n"].taken
    assert "folded into LayerNormalization" in found["n"].text
    assert found["n"].before > 4 * found["n"].after > 0
    assert found["r"].nodes == tuple(d.node for d in report.plan.decisions if d.op == "MatMul")[1:2]
    if found["t"].taken:
        assert "as a Mul, since" in found["t"].text
        assert "reads 't' too" in found["t"].text
    assert {entry.method for entry in found.values()} == {"smoothquant"}


def test_a_mul_stays_in_float_and_says_why(model, data):
    made = onnxq.plan(model, calibration=data, **OPTIONS | {"equalize": ["smoothquant:alpha=0.5"]})
    muls = [decision for decision in made.decisions if decision.op == "Mul"]
    assert [(d.action, d.reason.code) for d in muls] == [(Action.KEEP, "equalizes")]
    assert made.tensors.keys() >= {"t/scaled"}


def test_without_a_mul_only_what_folds_is_done(model, data):
    made = onnxq.plan(model, calibration=data, **OPTIONS | {"equalize": ["smoothquant:alpha=0.5,insert=false"]})
    found = {entry.tensor: entry for entry in made.equalizations}
    assert found["n"].taken
    assert not found["t"].taken
    assert "not done since" in found["t"].text
    assert all(decision.op != "Mul" for decision in made.decisions)


def test_the_float_model_computes_the_same(model, data, report):
    options = {"equalize": "smoothquant:alpha=0.5", "rules": [{"match": {"op": "MatMul"}, "weights": "per-tensor"}]}
    log = Log()
    prepared = prepare_model(make_request(model, Recipe.parse(options), log, calibration=data), log)
    before, result = prepared.model, equalized(prepared, log)
    after = result.model
    assert after is not before
    for feeds in data[:2]:
        for optimize in (False, True):
            expected = run_model(before, feeds, optimize=False)["y"]
            got = run_model(after, feeds, optimize=optimize)["y"]
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_the_model_given_stays_as_it_is(model, data):
    before = ir.to_proto(model).SerializeToString()
    onnxq.plan(model, calibration=data, **OPTIONS)
    assert ir.to_proto(model).SerializeToString() == before


def test_a_report_rebuilds_the_same_bytes(model, data, report, tmp_path):
    again = onnxq.quantize(model, calibration=data, recipe=dict(report.recipe), check=False)
    assert ir.to_proto(again.model).SerializeToString() == ir.to_proto(report.model).SerializeToString()
    batched = [{"x": np.concatenate([each["x"] for each in data])}]
    other = onnxq.quantize(model, calibration=batched, recipe=dict(report.recipe), check=False)
    assert [e.text for e in other.plan.equalizations] == [e.text for e in report.plan.equalizations]
    assert ir.to_proto(other.model).SerializeToString() == ir.to_proto(report.model).SerializeToString()


def test_a_plan_with_equalizations_round_trips(report):
    assert plan_from_json(plan_to_json(report.plan)) == report.plan


def test_simulate_rounds_the_equalized_model(model, data, report):
    simulated = onnxq.simulate(model, report.plan, calibration=data, **OPTIONS)
    expected = run_model(report.model, data[0], optimize=False)["y"]
    np.testing.assert_allclose(run_model(simulated, data[0], optimize=False)["y"], expected, rtol=1e-3, atol=1e-3)


def test_statistics_of_the_equalized_model_go_with_the_data(model, data):
    found = onnxq.calibrate(model, calibration=data, **OPTIONS)
    once = onnxq.quantize(model, calibration=data, statistics=found, check=False, **OPTIONS).model
    plain = onnxq.quantize(model, calibration=data, check=False, **OPTIONS).model
    assert ir.to_proto(once).SerializeToString() == ir.to_proto(plain).SerializeToString()
    with pytest.raises(CalibrationError, match="only statistics were given; give the data too"):
        onnxq.quantize(model, statistics=found, **OPTIONS)
    with pytest.raises(CalibrationError, match="of another model"):
        onnxq.quantize(model, statistics=found, calibration=data, **OPTIONS | {"equalize": []})


def test_data_that_can_be_read_only_once_is_refused(model, data):
    with pytest.raises(CalibrationError, match="reads the calibration data more than once; give a list"):
        onnxq.quantize(model, calibration=iter(data), **OPTIONS)


def test_a_format_that_leaves_activations_alone_is_refused(model, data):
    with pytest.raises(RecipeError, match="'smoothquant' is for layers whose activations are quantized too"):
        onnxq.quantize(model, calibration=data, **OPTIONS | {"format": "weight-only"})


def test_dynamic_quantization_gains_too(model, data):
    options = {**OPTIONS, "format": "dynamic"}
    plain, smooth = (
        onnxq.quantize(model, calibration=data, **options | {"equalize": e}) for e in ([], ["smoothquant"])
    )
    assert smooth.verification.outputs[0].sqnr_served > plain.verification.outputs[0].sqnr_served + 4


def test_an_entry_is_plain_data(report):
    assert all(dataclasses.is_dataclass(entry) for entry in report.plan.equalizations)
    assert [e["tensor"] for e in onnxq.files.report.report_to_plain(report)["plan"]["equalizations"]] == [
        entry.tensor for entry in report.plan.equalizations
    ]


def test_what_a_guard_put_back_is_equalized_as_before_when_the_report_is_replayed(tmp_path, model, data):
    ir.save(model, tmp_path / "net.onnx")
    options = OPTIONS | {"calibration": data, "threads": 1}
    first, again = tmp_path / "first.onnx", tmp_path / "again.onnx"
    before = onnxq.quantize(tmp_path / "net.onnx", **options).verification.outputs[0].sqnr_served
    limited = {"guard": True, "prefer": "size", "min_sqnr": before + 3}
    report = onnxq.quantize(tmp_path / "net.onnx", first, **options | limited)
    assert any(rule["keep"] == "error" for rule in report.recipe["rules"])
    assert report.plan.equalizations
    onnxq.quantize(tmp_path / "net.onnx", again, recipe=tmp_path / "first.report.json", calibration=data)
    assert again.read_bytes() == first.read_bytes()


def test_a_tensor_of_unknown_extents_is_scaled_by_a_mul(data):
    source = text(
        "r = Reshape (x, n) t = Tanh (r) y = MatMul (t, w)",
        "float[batch,16,64] x, int64[2] n",
        "float[a,b] y",
        "float[64,8] w",
    )
    made = model_from_text(source)
    weight = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    weight[3] *= 30
    made.graph.initializers["w"].const_value = ir.tensor(weight, name="w")
    feeds = [{**each, "n": np.array([-1, 64])} for each in data]
    report = onnxq.quantize(made, calibration=feeds, **OPTIONS | {"equalize": "smoothquant:alpha=0.5"})
    (entry,) = report.plan.equalizations
    assert entry.taken
    assert "as a Mul, since" in entry.text
    assert report.verification.outputs[0].sqnr_served > 25
