"""Products that quantize their input at run time, written in static formats with the codes of their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxq
import pytest
from onnx import numpy_helper
from onnxq.numerics.pair_safe import breaks
from onnxq.runtime.session import run_model
from tests.support.converting import ops, proto, written
from tests.support.imported import (
    FUSED,
    IMAGES,
    OURS,
    arrays,
    assert_same_weights,
    calibrated,
    exact_runs,
    fused,
    integer,
    largest_difference,
    of_onnxq,
    of_onnxruntime,
    stored_codes,
    weights,
)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("options", OURS, ids=str)
def test_calibrated_of_onnxq(options: dict[str, Any], form: str) -> None:
    model = of_onnxq(options)
    report = calibrated(model, format=form, target="cpu-vnni")
    assert not integer(report.model)
    assert stored_codes(report.model) == stored_codes(model)
    if form == "qdq":
        assert_same_weights(report.model, model)
    else:
        assert {"QLinearConv", "QLinearMatMul"} <= set(ops(report.model)) or "QGemm" in ops(report.model)
    for optimize in exact_runs(form):
        assert largest_difference(model, report.model, optimize=optimize) < 0.08
    imported = [entry for entry in report.plan.decisions if entry.reason.code == "imported"]
    assert len(imported) == 3
    assert all("quantized at run time" in entry.reason.text for entry in imported)
    came = [tensor for tensor in report.plan.tensors.values() if tensor.reason == "imported with the model"]
    assert len(came) == 3
    assert any("3 imported nodes, quantized at run time, are calibrated" in warning for warning in report.warnings)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("options", OURS, ids=str)
def test_codes_that_would_saturate_are_chosen_again(options: dict[str, Any], form: str) -> None:
    """ConvInteger is exact for int8 weights; QLinearConv is not where pairs of products are added in 16 bits."""
    model = of_onnxq(options)
    report = calibrated(model, format=form, target="cpu-avx2")
    for optimize in (False, True):
        assert largest_difference(model, report.model, optimize=optimize) < 0.08
    warnings = [warning for warning in report.warnings if "imported weights would saturate" in warning]
    if "weights" in options:  # kernels for uint8 weights are exact
        assert stored_codes(report.model) == stored_codes(model)
        assert not warnings
        return
    broken = 0
    for shape, axes in {(8, 3, 3, 3): (2, 3, 1), (512, 32): (0,), (32, 6): (0,)}.items():
        (ours,), (theirs,) = (
            [array for array in arrays(each).values() if array.shape == shape] for each in (report.model, model)
        )
        assert breaks(ours, axes, 128) == 0
        if breaks(theirs, axes, 128):
            broken += 1
        else:
            np.testing.assert_array_equal(ours, theirs)
    assert broken >= 1
    (warning,) = warnings
    assert f"{broken} imported weights" in warning
    (conv,) = (entry for entry in report.plan.decisions if entry.op == "Conv")
    assert "with codes chosen again" in conv.reason.text
    loss = float(report.plan.tensors[conv.inputs[1]].reason.split("chosen again, ")[1].split(" dB")[0])
    assert 30 < loss < 60
    if form == "qdq":
        (before,), (after,) = (
            [array for array in weights(each) if array.size == 216] for each in (model, report.model)
        )
        assert loss == pytest.approx(10 * np.log10(np.square(before).sum() / np.square(before - after).sum()), abs=0.1)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", ["QInt8", "QUInt8"])
def test_calibrated_of_another_quantizer(kind: str, per_channel: bool, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType

    options = {"reduce_range": kind == "QInt8"}  # codes up to 64, which saturate nowhere
    model = of_onnxruntime(tmp_path, weight_type=getattr(QuantType, kind), per_channel=per_channel, **options)
    report = calibrated(model, format="qdq")
    assert stored_codes(report.model) == stored_codes(model)
    written = [entry for entry in report.plan.decisions if entry.reason.code == "imported"]
    assert written
    assert_same_weights(report.model, model)
    for optimize in (False, True):
        assert largest_difference(model, report.model, optimize=optimize) < 0.08


@pytest.mark.parametrize("op", FUSED)
def test_calibrated_of_what_onnxruntime_fuses(op: str) -> None:
    model, weight, bias = fused(op)
    rng = np.random.default_rng(1)
    data = [{"image": rng.standard_normal((2, 48)).astype(np.float32)} for _ in range(4)]
    found = onnxq.quantize(model, check=False, format="qdq", placement="everywhere", calibration=data).model
    assert op not in ops(found)
    (held,) = weights(found)
    np.testing.assert_array_equal(held, weight)
    exact = data[0]["image"].astype(float) @ weight + bias
    for optimize in (False, True):
        result = run_model(found, data[0], optimize=optimize)["y"]
        assert np.abs(result - exact).max() < 0.03 * np.abs(exact).max()


def test_without_data_it_stays_as_it_came_and_says_what_would_do() -> None:
    model = of_onnxq({})
    report = onnxq.quantize(model, check=False, format="qdq", allow_empty=True)
    reasons = [entry.reason.text for entry in report.plan.decisions if entry.op.endswith("Integer")]
    assert len(reasons) == 3
    assert all("give calibration data to write it in format qdq" in text for text in reasons)
    assert stored_codes(report.model) == stored_codes(model)


def test_what_the_plan_leaves_in_float_quantizes_at_run_time_as_it_came() -> None:
    """No weight ever becomes float: what is cheaper in float than on calibrated codes keeps its form."""
    model = of_onnxq({"activations": "symmetric"})
    hidden = ["Conv_0"]
    rules = [{"match": {"name": hidden}, "keep": "slower", "because": "measured"}]
    report = calibrated(model, format="qdq", rules=rules)
    (decision,) = (entry for entry in report.plan.decisions if entry.node == hidden[0])
    assert decision.reason.code == "already-quantized"
    assert "stays unchanged, quantized at run time: measured" in decision.reason.text
    assert ops(report.model)["ConvInteger"] == 1
    assert ops(report.model)["MatMulInteger"] == 0
    assert stored_codes(report.model) == stored_codes(model)
    assert_same_weights(report.model, model)
    again = calibrated(model, recipe=report.recipe)
    assert again.model.SerializeToString(deterministic=True) == report.model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("options", [{"keep": ["Conv_0"]}, {"placement": "fastest"}], ids=str)
def test_calibrated_a_second_time_nothing_changes(options: dict[str, Any], tmp_path: Path) -> None:
    onnx.save(of_onnxq({}), tmp_path / "came.onnx")
    options = {"placement": "everywhere", "check": False, "calibration": IMAGES, "format": "qdq"} | options
    for source, target in (("came", "once"), ("once", "twice")):
        onnxq.quantize(tmp_path / f"{source}.onnx", tmp_path / f"{target}.onnx", **options)
    assert (tmp_path / "once.onnx").read_bytes() == (tmp_path / "twice.onnx").read_bytes()
    assert (tmp_path / "once.onnx").read_bytes() != (tmp_path / "came.onnx").read_bytes()


CHANNELS = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[2,3,8,8] image) => (float[2,4,8,8] y) <float w = {0.01}, float[4,1,1] f = {0.5, 2.0, 3.0, 0.1}>
{
  q, s, z = DynamicQuantizeLinear (image) m = ConvInteger <pads = [1,1,1,1]> (q, c, z)
  i = Cast <to = 1> (m) k = Mul (s, w) v = Mul (i, k) y = Mul (v, f)
}
"""


def with_codes(text: str, low: int, *, negative: bool = False) -> onnx.ModelProto:
    """Return a model of one convolution with int8 codes from `low` on, and factors behind it."""
    model = onnx.parser.parse_model(text)
    codes = np.random.default_rng(0).integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    codes[0, 0, 0, 0] = low
    model.graph.initializer.append(numpy_helper.from_array(codes, "c"))
    if negative:
        (factor,) = (tensor for tensor in model.graph.initializer if tensor.name == "f")
        factor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(factor) * np.float32(-1), "f"))
    return model


@pytest.mark.parametrize("negative", [False, True])
def test_factors_behind_a_convolution_go_into_its_scales(negative: bool) -> None:
    """As BatchNormalization does, which quantizers leave behind convolutions that quantize at run time."""
    model = with_codes(CHANNELS, -127, negative=negative)
    found = calibrated(model, format="qdq", target="cpu-vnni").model
    assert not {"ConvInteger", "Mul"} & set(ops(found))
    held, came = arrays(found), arrays(model)
    (name,) = (name for name, array in held.items() if array.dtype == np.int8 and array.ndim == 4)
    np.testing.assert_array_equal(held[name], -came["c"] if negative else came["c"])
    (scale,) = (held[node.input[1]] for node in found.graph.node if node.input[0] == name)
    np.testing.assert_allclose(scale, np.abs(came["f"].reshape(-1)) * np.float32(0.01), rtol=1e-6)
    for optimize in exact_runs("qdq"):
        assert largest_difference(model, found, optimize=optimize) < 0.02
    fitted = calibrated(model, format="qdq", target="cpu-avx2").model
    for optimize in (False, True):
        assert largest_difference(model, fitted, optimize=optimize) < 0.03


def test_a_weight_that_preparing_changes_otherwise_stays_as_it_came_and_says_so() -> None:
    """The negative of -128 is no code of int8."""
    report = calibrated(with_codes(CHANNELS, -128, negative=True), format="qdq")
    (decision,) = (entry for entry in report.plan.decisions if entry.op == "ConvInteger")
    assert "preparing the model changes its weight" in decision.reason.text
    assert ops(report.model)["ConvInteger"] == 1


def test_a_model_whose_products_all_stay_is_written_as_it_came() -> None:
    model = of_onnxq({})
    rules = [{"match": {"op": ["Conv", "MatMul", "Gemm"]}, "keep": "slower"}]
    rest = {"match": {"op": ["Relu", "Tanh", "Flatten"]}, "keep": "float"}
    report = calibrated(model, format="qdq", rules=[*rules, rest], passes=None)
    assert report.model.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_statistics_in_the_place_of_data(tmp_path: Path) -> None:
    model = of_onnxq({})
    statistics = onnxq.calibrate(model, calibration=IMAGES, format="qdq", placement="everywhere")
    options = {"check": False, "format": "qdq", "placement": "everywhere"}
    one = onnxq.quantize(model, statistics=statistics, **options).model
    two = onnxq.quantize(model, calibration=IMAGES, **options).model
    assert not integer(one)
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)


def test_the_guard_measures_a_calibrated_model_and_a_report_rebuilds_it(tmp_path: Path) -> None:
    onnx.save(of_onnxq({}), tmp_path / "came.onnx")
    np.savez(tmp_path / "data.npz", image=np.concatenate([each["image"] for each in IMAGES]))
    options = {"calibration": str(tmp_path / "data.npz"), "batch_size": 2, "format": "qdq"}
    report = onnxq.quantize(tmp_path / "came.onnx", tmp_path / "one.onnx", **options)
    assert report.verification is not None
    assert min(entry.sqnr_served for entry in report.verification.outputs) > 20
    onnxq.quantize(tmp_path / "came.onnx", tmp_path / "two.onnx", recipe=tmp_path / "one.report.json", check=False)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


@pytest.mark.parametrize("options", [{"equalize": ["cross-layer"]}, {"search": ["auto"], "min_sqnr": 1.0}], ids=str)
def test_what_would_change_weights_leaves_them_and_says_so(options: dict[str, Any]) -> None:
    report = onnxq.plan(of_onnxq({}), calibration=IMAGES, format="qdq", **options)
    reasons = [entry.reason.text for entry in report.decisions if entry.op.endswith("Integer")]
    assert len(reasons) == 3
    assert all("it is quantized, and" in text for text in reasons)


TIED = """
<ir_version: 9, opset_import: ["" : 17]>
net (int64[5] i) => (float[5,300] y) <float[300,32] t, float[32,32] w>
{ e = Gather (t, i) h = MatMul (e, w) a = Tanh (h) o = Transpose <perm = [1, 0]> (t) y = MatMul (a, o) }
"""


@pytest.mark.parametrize("form", ["weight-only", "qdq", "qoperator"])
def test_a_product_with_the_transpose_of_a_table_is_written_too(form: str) -> None:
    """As in language models, whose table is stored once."""
    options = {"calibration": [{"i": np.arange(5) * step} for step in range(1, 5)], "placement": "everywhere"}
    model = written(proto(TIED), format="dynamic", **options)
    assert ops(model)["Transpose"] == 1
    found = written(model, format=form, **options)
    assert not integer(found)
    first, second = (run_model(each, options["calibration"][0])["y"] for each in (model, found))
    assert np.abs(first - second).max() < 0.05 * np.abs(first).max()


CHAIN = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[4,64] x) => (float[4,16] y) <float[64,48] v, float[48,32] w, float[32,16] u>
{ a = MatMul (x, v) b = MatMul (a, w) y = MatMul (b, u) }
"""


@pytest.mark.parametrize("form", ["weight-only", "qdq", "qoperator"])
@pytest.mark.parametrize("kept", ["MatMul_1", "MatMul_2"])
def test_a_product_in_front_of_one_that_stays_is_written(kept: str, form: str) -> None:
    """Its output is quantized at run time, by a QuantizeLinear with a computed scale."""
    rng = np.random.default_rng(0)
    data = [{"x": rng.standard_normal((4, 64)).astype(np.float32)} for _ in range(3)]
    options = {"calibration": data, "placement": "everywhere"}
    model = written(proto(CHAIN), format="dynamic", activations="int8,symmetric", **options)
    found = written(model, format=form, keep=[kept], **options)
    assert ops(found)["MatMulInteger"] == 1
    first, second = (run_model(each, data[0], optimize=False)["y"] for each in (model, found))
    assert np.abs(first - second).max() < 0.05 * np.abs(first).max()


@pytest.mark.parametrize("form", ["weight-only", "qdq"])
def test_what_stands_in_a_body_is_written_too(form: str) -> None:
    text = """
    <ir_version: 9, opset_import: ["" : 17]>
    net (bool cond, float[2,64] image) => (float[2,32] y) <float[64,32] w>
    {
      y = If (cond) <
        then_branch = a () => (float[2,32] t) { t = MatMul (image, w) },
        else_branch = b () => (float[2,32] e) { m = MatMul (image, w) e = Sigmoid (m) }>
    }
    """
    rng = np.random.default_rng(0)
    data = [
        {"cond": np.array(flag), "image": rng.standard_normal((2, 64)).astype(np.float32)} for flag in (True, False)
    ]
    options = {"calibration": data, "placement": "everywhere"}
    model = written(proto(text), format="dynamic", **options)
    found = written(model, format=form, **options)
    (node,) = (node for node in found.graph.node if node.op_type == "If")
    inner = {each.op_type for attribute in node.attribute for each in attribute.g.node}
    assert not {"MatMulInteger", "DynamicQuantizeLinear"} & (inner | set(ops(found)))
    assert stored_codes(found) == stored_codes(model) or form == "weight-only"
    for feeds in data:
        first, second = (run_model(each, feeds)["y"] for each in (model, found))
        assert np.abs(first - second).max() < 0.05 * np.abs(first).max()


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("target", ["cpu-vnni", "cpu-avx2"])
def test_int8_weights_with_zero_points_keep_their_values(form: str, target: str, tmp_path: Path) -> None:
    """Without VNNI they become uint8, codes and zero points 128 higher: exact, and the neighbours stay quantized."""
    from onnxruntime.quantization import QuantType

    extra = {"WeightSymmetric": False, "DefaultTensorType": 1}
    model = of_onnxruntime(tmp_path, weight_type=QuantType.QInt8, extra_options=extra)
    assert any(array.dtype == np.int8 and array.size == 1 and array.any() for array in arrays(model).values())
    report = calibrated(model, format=form, target=target)
    assert not integer(report.model)
    ours, theirs = (
        sorted((array for array in arrays(each).values() if array.ndim > 1), key=lambda array: array.size)
        for each in (report.model, model)
    )
    shift = 0 if target == "cpu-vnni" else 128
    for our, their in zip(ours, theirs, strict=True):
        assert our.dtype == (np.int8 if target == "cpu-vnni" else np.uint8)
        np.testing.assert_array_equal(our, their.astype(int) + shift)
    for optimize in (False, True) if target == "cpu-avx2" else exact_runs(form):
        assert largest_difference(model, report.model, optimize=optimize) < 0.08


def test_a_rule_for_other_codes_is_followed() -> None:
    """Where its neighbours are quantized the product has to as well; its codes are chosen again."""
    rules = [{"match": {"name": "MatMul*"}, "weights": {"dtype": "uint8", "symmetric": False}}]
    model = of_onnxq({})
    report = calibrated(model, format="qoperator", rules=rules)
    chosen = [entry for entry in report.plan.decisions if "a rule asks for others" in entry.reason.text]
    assert len(chosen) == 2
    assert not integer(report.model)
    for optimize in (False, True):
        assert largest_difference(model, report.model, optimize=optimize) < 0.08
