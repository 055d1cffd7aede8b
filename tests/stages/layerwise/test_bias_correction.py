"""Bias correction: outputs keep their means, by either way, for every kind of layer; nothing is changed in place."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxq
import pytest
from onnxq.errors import CalibrationError, PassError
from onnxq.files.plan import plan_from_json, plan_to_json
from onnxq.graph.text import model_from_text
from onnxq.runtime.session import run_model

RANDOM = np.random.default_rng(0)


def numbers(*shape: int) -> str:
    values = RANDOM.standard_t(4, size=shape) * 0.2
    each = ", ".join(f"{value:.4f}" for value in values.ravel())
    return f"float[{', '.join(map(str, shape))}] {{name}} = {{{{{each}}}}}"


def weights(**shapes: tuple[int, ...]) -> str:
    return ", ".join(numbers(*shape).format(name=name) for name, shape in shapes.items())


MODELS = {
    "Conv, grouped": (
        "float[n, 8, 6, 6] x",
        "float[n, 8, 4, 4] z",
        weights(w=(8, 4, 3, 3), b=(8,), v=(8, 8, 1, 1), c=(8,)),
        "y = Conv <group = 2> (x, w, b) r = Relu (y) z = Conv (r, v, c)",
        (8, 6, 6),
    ),
    "MatMul and Add": (
        "float[n, 32] x",
        "float[n, 8] z",
        weights(w=(32, 16), b=(16,), v=(16, 8), c=(8,)),
        "m = MatMul (x, w) y = Add (b, m) r = Relu (y) k = MatMul (r, v) z = Add (k, c)",
        (32,),
    ),
    "Gemm": (
        "float[n, 32] x",
        "float[n, 8] z",
        weights(w=(16, 32), b=(16,), v=(16, 8), c=(8,)),
        "y = Gemm <transB = 1> (x, w, b) r = Relu (y) z = Gemm (r, v, c)",
        (32,),
    ),
}
FORMATS = {"qdq": {"weights": {"dtype": "int8"}}, "weight-only": {"weights": {"dtype": "int4", "method": "rtn"}}}


def build(case: str) -> tuple[ir.Model, list[dict[str, np.ndarray]]]:
    x, z, held, body, shape = MODELS[case]
    graph = f'<ir_version: 10, opset_import: ["" : 21]> net ({x}) => ({z}) <{held}> {{ {body} }}'
    random = np.random.default_rng(5)  # inputs with a mean: rounding errors do not cancel
    data = [{"x": (random.normal(size=(20, *shape)) + 1.5).astype(np.float32)} for _ in range(6)]
    return model_from_text(graph), data


def shift(model: ir.Model, made: ir.Model, data: list[dict[str, np.ndarray]]) -> float:
    """Mean over channels of |mean of the output's error|."""
    errors = [run_model(made, feeds)["z"] - run_model(model, feeds)["z"] for feeds in data]
    error = np.concatenate(errors).astype(np.float64)
    return float(np.abs(error.mean(axis=tuple(axis for axis in range(error.ndim) if axis != 1))).mean())


@pytest.mark.parametrize("case", sorted(MODELS))
@pytest.mark.parametrize("form", sorted(FORMATS))
def test_means_are_kept(case: str, form: str) -> None:
    model, data = build(case)
    before = {name: value.const_value.numpy().copy() for name, value in model.graph.initializers.items()}
    options = {"format": form, "placement": "everywhere", "calibration": data, "check": False, **FORMATS[form]}
    found = {
        way: shift(model, onnxq.quantize(model, bias_correction=way, **options).model, data)
        for way in ("none", "analytic", "empirical")
    }
    assert found["empirical"] < 0.3 * found["none"]
    if form == "weight-only":  # of activations' errors the analytic way knows nothing
        assert found["analytic"] < 0.6 * found["none"]
    for name, value in before.items():
        np.testing.assert_array_equal(model.graph.initializers[name].const_value.numpy(), value)


@pytest.mark.parametrize("way", ["analytic", "empirical"])
def test_the_plan_holds_the_amounts_and_is_carried_out_by_simulation_too(way: str) -> None:
    model, data = build("Conv, grouped")
    options = {"placement": "everywhere", "calibration": data, **FORMATS["qdq"]}
    plan = onnxq.quantize(model, bias_correction=way, check=False, guard=False, **options).plan
    assert set(plan.bias_corrections) == {"b", "c"}
    assert plan_from_json(plan_to_json(plan)) == plan
    assert onnxq.plan(model, bias_correction=way, **options).bias_corrections == plan.bias_corrections
    without = replace(plan, bias_corrections={})
    shifts = [shift(model, onnxq.simulate(model, each), data) for each in (plan, without)]
    assert shifts[0] < 0.6 * shifts[1]


def test_a_plan_that_corrects_another_models_biases_is_refused() -> None:
    model, data = build("Gemm")
    plan = replace(onnxq.plan(model, calibration=data), bias_corrections={"b": (1.0,)})
    with pytest.raises(PassError, match="the plan corrects 1 values of bias 'b'"):
        onnxq.simulate(model, plan)


def test_without_data_it_says_what_to_do() -> None:
    model, data = build("Gemm")
    found = onnxq.calibrate(model, calibration=data)
    with pytest.raises(CalibrationError, match=r"bias correction runs the calibration data again.*`calibration`"):
        onnxq.quantize(model, statistics=found, bias_correction="empirical", check=False)
