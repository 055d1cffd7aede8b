import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxq.errors import PlanError
from onnxq.files.plan import plan_from_json, plan_to_json
from onnxq.files.report import report_to_json
from onnxq.types.plan import Action, Decision, Plan, Reason, Role, TensorPlan
from onnxq.types.report import Latency, OutputError, Report, Verification
from onnxq.types.scheme import PerBlock, PerChannel, PerTensor, PerToken, QuantParams, QuantType, Scheme

ACTIVATION = Scheme(dtype=QuantType.UINT8, symmetric=False)
WEIGHT = Scheme(dtype=QuantType.INT8, symmetric=True, granularity=PerChannel(axis=0))


def params(scale, zero_point, scheme=ACTIVATION):
    return QuantParams(scheme=scheme, scale=np.asarray(scale, np.float32), zero_point=np.asarray(zero_point, np.int32))


PLAN = Plan(
    format="qdq",
    target="cpu",
    fingerprint="f" * 64,
    decisions=(
        Decision(
            node="conv",
            op="Conv",
            action=Action.QUANTIZE,
            reason=Reason(code="integer-kernel", text="läuft als QLinearConv"),
            rule=2,
            inputs={0: "x", 1: "w", 2: "b"},
            outputs={0: "y"},
            kernel="QLinearConv",
        ),
        Decision(node="if/then/erf", op="Erf", action=Action.KEEP, reason=Reason(code="no-kernel", text="none")),
    ),
    tensors={
        "x": TensorPlan(name="x", tensor="x", role=Role.ACTIVATION, scheme=ACTIVATION, params=params(0.1, 128)),
        "w": TensorPlan(name="w", tensor="w", role=Role.WEIGHT, scheme=WEIGHT, method="rtn", reason="its data"),
        "b": TensorPlan(
            name="b",
            tensor="b",
            role=Role.BIAS,
            scheme=Scheme(dtype=QuantType.INT32, symmetric=True, granularity=PerBlock(size=32, axis=1)),
            scale_from=("x", "w"),
        ),
        "y": TensorPlan(
            name="y",
            tensor="y",
            role=Role.ACTIVATION,
            scheme=WEIGHT,
            params=params([[0.1], [1e-38]], [[0], [-5]], WEIGHT),
            shares="x",
        ),
    },
    warnings=("careful",),
)


def test_a_plan_comes_back_as_it_was():
    text = plan_to_json(PLAN)
    assert plan_from_json(text) == PLAN
    assert plan_to_json(plan_from_json(text)) == text
    assert "läuft" in text


@given(st.floats(np.float32(1e-45), np.finfo(np.float32).max, width=32, exclude_min=True), st.integers(0, 255))
def test_scales_come_back_to_the_bit(scale, zero_point):
    tensor = replace(PLAN.tensors["x"], params=params(scale, zero_point))
    back = plan_from_json(plan_to_json(replace(PLAN, tensors={"x": tensor})))
    assert back.tensors["x"].params == tensor.params
    assert back.tensors["x"].params.scale.shape == ()


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(), PerBlock(size=16), PerToken()])
def test_every_granularity_comes_back(granularity):
    tensor = replace(PLAN.tensors["x"], params=None, scheme=replace(ACTIVATION, granularity=granularity))
    assert plan_from_json(plan_to_json(replace(PLAN, tensors={"x": tensor}))).tensors["x"].scheme == tensor.scheme


def edited(edit):
    data = json.loads(plan_to_json(PLAN))
    edit(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(version=9), "version 9 cannot be read"),
        (lambda d: d.pop("version"), "version None cannot be read"),
        (lambda d: d["decisions"][0].update(action="quantise"), r"decisions\[0\].action.*did you mean 'quantize'"),
        (lambda d: d["decisions"][1].update(kernal="x"), r"'decisions\[1\].kernal'; did you mean 'kernel'"),
        (lambda d: d["decisions"][1].pop("reason"), r"'decisions\[1\].reason' is missing"),
        (lambda d: d["tensors"]["x"]["scheme"].update(dtype="unit8"), "did you mean 'uint8'"),
        (lambda d: d["tensors"]["b"]["scheme"]["granularity"].update(size=0), "at least one element"),
        (lambda d: d["tensors"]["x"]["params"].update(scale=0.0), r"tensors\['x'\].params.scale: .* above 0"),
        (lambda d: d["tensors"]["x"]["params"].update(scale="nan"), r"tensors\['x'\].params.scale: .* above 0"),
        (lambda d: d["tensors"]["x"]["params"].update(scale=1e39), "must be finite"),
        (lambda d: d["tensors"]["x"]["params"].update(scale="big"), "expected a number, or nested lists"),
        (lambda d: d["tensors"]["x"]["params"].update(zero_point=0.5), "expected whole numbers"),
        (lambda d: d["tensors"]["x"]["params"].update(zero_point=256), r"zero_point: .* uint8 lies in 0\.\.255"),
        (lambda d: d["tensors"]["x"]["params"].update(scale=[0.1, 0.2]), "differ in shape"),
    ],
)
def test_a_plan_edited_wrongly_is_refused_with_the_place(edit, message):
    with pytest.raises(PlanError, match=message):
        plan_from_json(edited(edit))


@pytest.mark.parametrize("text", ["", "no json", "[]", "3"])
def test_what_is_no_plan_says_how_to_make_one(text):
    with pytest.raises(PlanError, match="onnxq plan --json"):
        plan_from_json(text)


REPORT = Report(
    source="m.onnx",
    output=None,
    float_bytes=100,
    quantized_bytes=30,
    plan=PLAN,
    recipe={"format": "qdq", "threads": 1},
    verification=Verification(
        outputs=(OutputError(name="y", sqnr_plain=math.inf, sqnr_served=math.nan, max_abs_served=np.float32(0.5)),),
        latency=Latency(float_ms=2.0, quantized_ms=1.0, speedup=2.0, runs=9, threads=1),
        samples=4,
    ),
    passes=({"name": "fold", "seconds": np.float64(0.5)},),
    model=object(),
)


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def test_a_report_is_valid_json_whatever_the_numbers_are():
    data = json.loads(report_to_json(REPORT), parse_constant=refuse)
    output = data["verification"]["outputs"][0]
    assert (output["sqnr_plain"], output["sqnr_served"], output["max_abs_served"]) == ("inf", "nan", 0.5)


def test_a_report_is_complete_but_for_the_model_and_in_the_order_of_its_fields():
    data = json.loads(report_to_json(REPORT))
    assert list(data) == ["version", *(field.name for field in fields(Report) if field.name != "model")]
    assert len(data["plan"]["decisions"]) == len(PLAN.decisions)


def test_the_plan_in_a_report_can_be_replayed():
    plan = json.loads(report_to_json(REPORT))["plan"]
    assert plan_from_json(json.dumps({"version": 1} | plan)) == PLAN
