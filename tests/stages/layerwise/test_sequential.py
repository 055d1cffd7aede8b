"""Sequential weight methods: each layer by the inputs that it gets from the quantized layers before it."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnxq
import pytest
from onnxq.data import open_source, signature
from onnxq.errors import CalibrationError
from onnxq.graph.text import model_from_text
from onnxq.numerics.affine import dequantize
from onnxq.runtime.session import run_model
from onnxq.stages.layerwise.sequential import choose_in_order, wants_data
from onnxq.types.inputs import Inputs, Needs
from onnxq.types.recipe import Recipe
from onnxq.weights import weight_methods
from onnxq.weights.rtn import RoundToNearest
from tests.support.quantizing import plan_with_statistics

METHOD = "gptq:sequential=true"
TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
layers (float[n, 64] x) => (float[n, 16] z)
{
    one = MatMul (x, first)
    bent = Relu (one)
    two = MatMul (bent, second)
    sum = Add (two, one)
    z = MatMul (sum, third)
}
"""


def layers() -> tuple[ir.Model, dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    weights = {
        name: (random.standard_t(5, size=shape) * 0.1).astype(np.float32)
        for name, shape in {"first": (64, 64), "second": (64, 64), "third": (64, 16)}.items()
    }
    model = model_from_text(
        TEXT.replace(
            "\n{",
            "\n<"
            + ", ".join(
                f"float[{w.shape[0]}, {w.shape[1]}] {name} = {{{', '.join(map(str, w.ravel()))}}}"
                for name, w in weights.items()
            )
            + ">\n{",
        )
    )
    return model, weights


def samples() -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    mix = random.normal(size=(64, 64))
    return [{"x": (random.normal(size=(40, 64)) @ mix).astype(np.float32)} for _ in range(5)]


GIVEN: dict[tuple[float, ...], Inputs] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Spy:
    """Rounds to nearest, and keeps what it was given by the weight's first numbers."""

    needs = Needs.SQUARES
    sequential = True

    def __call__(self, weight, scheme, *, min_scale=None, inputs=None):  # type: ignore[no-untyped-def]
        GIVEN[tuple(weight[0, :4])] = inputs
        return RoundToNearest()(weight, scheme, min_scale=min_scale)


def test_every_layer_is_quantized_by_what_the_quantized_layers_before_it_compute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By what methods are given: codes would hang on the last digits of sums, whose order is the runtime's own."""
    monkeypatch.setitem(weight_methods._entries, "recorder", Spy)
    GIVEN.clear()
    model, weights = layers()
    data = samples()
    recipe = Recipe.parse({"format": "weight-only", "weights": {"method": "recorder"}})
    plan, statistics = plan_with_statistics(model, {"x": np.concatenate([each["x"] for each in data])}, recipe)
    assert wants_data(plan)
    before = {name: model.graph.initializers[name].const_value.numpy().copy() for name in weights}
    chosen = choose_in_order(model, plan, statistics, open_source(data, signature(model)))
    assert set(chosen) == set(weights)

    x = np.concatenate([each["x"] for each in data]).astype(np.float64)
    values = {name: dequantize(*chosen[name]).astype(np.float64) for name in weights}
    one = x @ values["first"]
    two = np.maximum(one, 0) @ values["second"]
    for name, features in {"first": x, "second": np.maximum(one, 0), "third": one + two}.items():
        gram = features.T @ features / len(features)
        given = GIVEN[tuple(weights[name][0, :4])]
        assert (given.axis, given.rows) == (0, len(x))
        np.testing.assert_allclose(given.products, gram, rtol=1e-5, atol=1e-5 * np.abs(gram).max())
        np.testing.assert_allclose(given.squares, np.diagonal(gram), rtol=1e-5)
        np.testing.assert_array_equal(before[name], model.graph.initializers[name].const_value.numpy())
    unquantized = np.maximum(x @ weights["first"], 0)
    of_float = unquantized.T @ unquantized / len(x)
    second = GIVEN[tuple(weights["second"][0, :4])].products
    assert np.abs(second - of_float).max() > 1e-3 * np.abs(of_float).max(), "the quantized layer computes the same"


def test_from_data_to_file_it_beats_looking_at_float_inputs() -> None:
    model, _ = layers()
    random = np.random.default_rng(7)
    fresh = {"x": (random.normal(size=(200, 64)) @ np.random.default_rng(1).normal(size=(64, 64))).astype(np.float32)}
    expected = run_model(model, fresh)["z"]
    errors = []
    for method in ("mse", "gptq", METHOD):
        made = onnxq.quantize(
            model,
            format="weight-only",
            weights={"method": method, "dtype": "uint4"},
            calibration=samples(),
            check=False,
        ).model
        errors.append(float(np.square(run_model(made, fresh)["z"] - expected).sum()))
    assert errors[1] < 0.7 * errors[0]
    assert errors[2] < errors[1]


def test_without_data_to_run_it_says_what_to_do() -> None:
    model, _ = layers()
    options = {"format": "weight-only", "weights": {"method": METHOD}}
    found = onnxq.calibrate(model, calibration=samples(), **options)
    with pytest.raises(CalibrationError, match="runs the calibration data again"):
        onnxq.quantize(model, statistics=found, check=False, **options)
    made = onnxq.quantize(model, statistics=found, calibration=samples(), check=False, **options)
    assert made.model is not None


def test_a_weight_that_is_looked_up_and_multiplied_with_is_stored_once() -> None:
    table = np.random.default_rng(3).normal(size=(64, 32)).astype(np.float32)
    model = model_from_text(f"""
<ir_version: 10, opset_import: ["" : 21]>
tied (int64[n] x) => (float[n, 64] z)
<float[64, 32] table = {{{", ".join(map(str, table.ravel()))}}}>
{{
    rows = Gather (table, x)
    bent = Relu (rows)
    turned = Transpose <perm = [1, 0]> (table)
    z = MatMul (bent, turned)
}}
""")
    data = [{"x": np.random.default_rng(seed).integers(0, 64, size=50)} for seed in range(4)]
    sizes = []
    for method in ("gptq", METHOD):
        made = onnxq.quantize(
            model, format="weight-only", weights={"method": method}, calibration=data, check=False
        ).model
        sizes.append(sum(value.const_value.nbytes for value in made.graph.initializers.values()))
    assert sizes[0] == sizes[1]
