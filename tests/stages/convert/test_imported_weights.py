"""Products that quantize their input at run time, written in other formats with the codes of their weights.

They come from onnxq, from onnxruntime's quantizer, and as onnxruntime fuses them, from text.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxq
import pytest
from onnx import numpy_helper
from onnxq.numerics.pair_safe import breaks
from onnxq.runtime.saturation import adds_pairs
from onnxq.runtime.session import run_model
from tests.support.converting import ops, proto, written

NET = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[2,3,8,8] image) => (float[2,6] y)
<float[8,3,3,3] w0, float[8] b0, float[512,32] w1, float[32] b1, float[32,6] w2>
{
  c = Conv <pads = [1,1,1,1]> (image, w0, b0) r = Relu (c) f = Flatten (r)
  g = MatMul (f, w1) h = Add (g, b1) s = Tanh (h) y = MatMul (s, w2)
}
"""
IMAGES = [{"image": np.random.default_rng(seed).standard_normal((2, 3, 8, 8)).astype(np.float32)} for seed in range(4)]
OURS = [{}, {"weights": "uint8,asymmetric,per-tensor"}, {"activations": "int8,symmetric"}, {"activations": "symmetric"}]


def arrays(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def weights(model: onnx.ModelProto) -> list[npt.NDArray[np.float64]]:
    """Return what the codes of all weights stand for, as each operator's specification says; products as [K, N]."""
    found, held = [], arrays(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        given = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "MatMulNBits":
            blocks = -(-given["K"] // given["block_size"])
            codes = held[node.input[1]].reshape(given["N"], blocks, -1).astype(int)
            zeros = held[node.input[3]].reshape(given["N"], blocks, 1).astype(int) if len(node.input) > 3 else 128
            values = (codes - zeros) * held[node.input[2]].reshape(given["N"], blocks, 1).astype(float)
            found.append(values.reshape(given["N"], -1)[:, : given["K"]].T)
        elif node.op_type == "DequantizeLinear" and held.get(node.input[0], np.empty(0)).ndim > 1:
            codes = held[node.input[0]].astype(int)
            beside = [1] * codes.ndim
            if held[node.input[1]].size > 1:
                beside[given.get("axis", 1)] = -1
            zero = held[node.input[2]].astype(int).reshape(beside) if len(node.input) > 2 else 0
            found.append((codes - zero) * held[node.input[1]].astype(float).reshape(beside))
        elif node.op_type in ("MatMulInteger", "ConvInteger"):
            codes, zero = held[node.input[1]].astype(int), 0
            if len(node.input) > 3:
                zero = held[node.input[3]].astype(int)
            (cast,) = (each for each in model.graph.node if node.output[0] in each.input)
            (mul,) = (each for each in model.graph.node if cast.output[0] in each.input)
            (factor,) = (producers[name] for name in mul.input if name != cast.output[0])
            (scale,) = (held[name] for name in factor.input if name in held)
            if node.op_type == "ConvInteger":
                scale = scale.reshape(-1, 1, 1, 1)
            found.append((codes - zero) * scale.astype(float))
    return sorted(found, key=lambda array: array.size)


def assert_same_weights(one: onnx.ModelProto, two: onnx.ModelProto, count: int = 3) -> None:
    first, second = weights(one), weights(two)
    assert len(first) == len(second) == count
    for ours, theirs in zip(first, second, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def largest_difference(one: onnx.ModelProto, two: onnx.ModelProto, *, optimize: bool) -> float:
    """Return the largest difference of outputs, as a share of the largest value."""
    name = one.graph.output[0].name
    first, second = (run_model(model, IMAGES[0], optimize=optimize)[name] for model in (one, two))
    return float(np.abs(first - second).max() / np.abs(first).max())


def of_onnxq(options: dict[str, Any]) -> onnx.ModelProto:
    """Return the net in format dynamic; its products saturate nowhere, its convolution does not as ConvInteger."""
    options = {"format": "dynamic", "placement": "everywhere", "target": "cpu-avx2"} | options
    model = written(proto(NET), calibration=IMAGES, **options)
    assert ops(model)["MatMulInteger"] == 2
    assert ops(model)["ConvInteger"] == 1
    return model


def of_onnxruntime(path: Path, **options: Any) -> onnx.ModelProto:
    from onnxruntime.quantization import quantize_dynamic

    onnx.save(proto(NET), path / "net.onnx")
    quantize_dynamic(path / "net.onnx", path / "theirs.onnx", **options)
    model = onnx.load(path / "theirs.onnx")
    assert ops(model)["MatMulInteger"] == 2
    return model


def check_weight_only(model: onnx.ModelProto) -> None:
    """Check both forms with weights on codes: the same weights bit for bit, the same outputs but for rounding."""
    contrib = written(model, format="weight-only")
    standard = written(model, format="weight-only", portable=True)
    assert ops(contrib)["MatMulNBits"] == 2
    assert ops(standard)["DequantizeLinear"] == 3
    for found in (contrib, standard):
        assert not {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"} & set(ops(found))
        assert_same_weights(found, model)
        for optimize in (False, True):
            assert largest_difference(model, found, optimize=optimize) < 0.05  # inputs lose no, or less, by rounding
        assert largest_difference(contrib, found, optimize=False) < 0.03


@pytest.mark.parametrize("options", OURS, ids=str)
def test_weights_alone_of_onnxq(options: dict[str, Any]) -> None:
    check_weight_only(of_onnxq(options))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", ["QInt8", "QUInt8"])
def test_weights_alone_of_another_quantizer(kind: str, per_channel: bool, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType

    # Pairs of 7-bit weights saturate on no processor: what they compute is what the weights are.
    options = {"weight_type": getattr(QuantType, kind), "per_channel": per_channel, "reduce_range": kind == "QInt8"}
    check_weight_only(of_onnxruntime(tmp_path, **options))


def test_what_was_written_anew_says_so_and_a_second_time_changes_nothing() -> None:
    report = onnxq.quantize(of_onnxq({}), format="weight-only", check=False)
    reasons = {entry.op: entry.reason for entry in report.plan.decisions}
    assert reasons["com.microsoft::MatMulNBits"].code == reasons["Conv"].code == "imported"
    assert "came quantized at run time" in reasons["Conv"].text
    assert any("3 nodes came quantized" in warning for warning in report.warnings)
    again = written(report.model, format="weight-only")
    assert again.SerializeToString(deterministic=True) == report.model.SerializeToString(deterministic=True)


def test_rules_keep_what_they_name() -> None:
    found = ops(written(of_onnxq({}), format="weight-only", keep=["MatMul"]))
    assert found["MatMulInteger"] == 2
    assert found["Conv"] == 1


FUSED = {
    "DynamicQuantizeMatMul": "y = com.microsoft.DynamicQuantizeMatMul (x, c, s, z, b)",
    "MatMulIntegerToFloat": """xc, xs, xz = DynamicQuantizeLinear (x)
                               y = com.microsoft.MatMulIntegerToFloat (xc, c, xs, s, xz, z, b)""",
}


def fused(op: str) -> tuple[onnx.ModelProto, npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Return a model of one operator as onnxruntime fuses it, what its weight stands for, and its bias."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(f"""
    <ir_version: 9, opset_import: ["" : 17, "com.microsoft" : 1]>
    net (float[2,48] image) => (float[2,16] y) {{ x = Identity (image) {FUSED[op]} }}""")
    held = {
        "c": rng.integers(0, 256, (48, 16)).astype(np.uint8),
        "s": rng.uniform(0.01, 0.1, 16).astype(np.float32),
        "z": rng.integers(100, 150, 16).astype(np.uint8),
        "b": rng.standard_normal(16).astype(np.float32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in held.items())
    return model, (held["c"].astype(int) - held["z"]) * held["s"].astype(float), held["b"]


@pytest.mark.parametrize("op", FUSED)
def test_weights_alone_of_what_onnxruntime_fuses(op: str) -> None:
    model, weight, bias = fused(op)
    feeds = {"image": np.random.default_rng(1).standard_normal((2, 48)).astype(np.float32)}
    exact = feeds["image"].astype(float) @ weight + bias
    for portable in (False, True):
        found = written(model, format="weight-only", portable=portable)
        assert op not in ops(found)
        (held,) = weights(found)
        np.testing.assert_array_equal(held, weight)
        off, served = (run_model(found, feeds, optimize=optimize)["y"] for optimize in (False, True))
        for result in (off, served):
            assert np.abs(result - exact).max() < 0.02 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "q, s, z = DynamicQuantizeLinear (x) m = MatMulInteger (q, c, z) y = Cast <to = 1> (m)",
            "not multiplied by the scale",
        ),
        (
            """q, s, z = DynamicQuantizeLinear (x) m = MatMulInteger (q, c, z) f = Cast <to = 1> (m)
               k = Mul (s, w) y = Mul (f, k) n = Cast <to = 1> (m)""",
            "read by other operators",
        ),
        (
            """q, s, z = DynamicQuantizeLinear (x) o = Add (x, x) p, t, v = DynamicQuantizeLinear (o)
               m = MatMulInteger (q, c, z) f = Cast <to = 1> (m) k = Mul (t, w) y = Mul (f, k)""",
            "not rounded by one scale",
        ),
    ],
    ids=["unscaled", "two readers", "another scale"],
)
def test_what_stands_for_no_product_stays_and_says_why(body: str, reason: str) -> None:
    outputs = "float[2,16] y" + (", float[2,16] n" if "n = " in body else "")
    model = onnx.parser.parse_model(f"""
    <ir_version: 9, opset_import: ["" : 17]>
    net (float[2,48] x) => ({outputs}) <float w = {{0.5}}> {{ {body} }}""")
    codes = np.random.default_rng(0).integers(-127, 128, (48, 16)).astype(np.int8)
    model.graph.initializer.append(numpy_helper.from_array(codes, "c"))
    report = onnxq.quantize(model, format="weight-only", check=False)
    (decision,) = (entry for entry in report.plan.decisions if entry.op == "MatMulInteger")
    assert decision.reason.code == "already-quantized"
    assert reason in decision.reason.text
    assert ops(report.model) == ops(model)


def test_one_scale_a_row_stays_and_says_why() -> None:
    model = written(proto(NET), calibration=IMAGES, format="dynamic", activations="per-token", placement="everywhere")
    report = onnxq.quantize(model, format="weight-only", check=False)
    reasons = [entry.reason.text for entry in report.plan.decisions if entry.op == "MatMulInteger"]
    assert reasons
    assert all("stays as it came" in text for text in reasons)


def calibrated(model: onnx.ModelProto, **options: Any) -> onnxq.Report:
    report = onnxq.quantize(model, check=False, calibration=IMAGES, placement="everywhere", **options)
    onnx.checker.check_model(report.model, full_check=True)
    return report


def stored_codes(model: onnx.ModelProto) -> Counter[tuple[tuple[int, ...], bytes]]:
    """Return shape and bytes of what is stored on 8 bits."""
    return Counter(
        (array.shape, array.tobytes())
        for array in arrays(model).values()
        if array.dtype in (np.int8, np.uint8) and array.size > 32
    )


def integer(model: onnx.ModelProto) -> set[str]:
    return {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"} & set(ops(model))


def exact_runs(form: str) -> tuple[bool, ...]:
    """Return with the optimizer off and on, where this processor is exact for codes of 8 bits that keep to no limit."""
    if not adds_pairs():
        return False, True
    return (False,) if form == "qdq" else ()


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
    assert all("came quantized at run time" in entry.reason.text for entry in imported)
    came = [tensor for tensor in report.plan.tensors.values() if tensor.reason == "imported with the model"]
    assert len(came) == 3
    assert any("3 nodes came quantized at run time and are calibrated" in warning for warning in report.warnings)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("options", OURS, ids=str)
def test_codes_that_would_saturate_are_chosen_again(options: dict[str, Any], form: str) -> None:
    """ConvInteger is exact for int8 weights; QLinearConv is not where pairs of products are added in 16 bits."""
    model = of_onnxq(options)
    report = calibrated(model, format=form, target="cpu-avx2")
    for optimize in (False, True):
        assert largest_difference(model, report.model, optimize=optimize) < 0.08
    told = [warning for warning in report.warnings if "imported weights would saturate" in warning]
    if "weights" in options:  # kernels for uint8 weights are exact
        assert stored_codes(report.model) == stored_codes(model)
        assert not told
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
    (warning,) = told
    assert f"{broken} imported weights" in warning
    (conv,) = (entry for entry in report.plan.decisions if entry.op == "Conv")
    assert "on codes chosen again" in conv.reason.text
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
    assert "stays as it came, quantized at run time: measured" in decision.reason.text
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
    assert all("it is on codes" in text for text in reasons)


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
    """Without VNNI they become uint8, codes and zero points 128 higher: exact, and the neighbours stay on codes."""
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
    """Where its neighbours work on codes the product has to as well; its codes are chosen again."""
    rules = [{"match": {"name": "MatMul*"}, "weights": {"dtype": "uint8", "symmetric": False}}]
    model = of_onnxq({})
    report = calibrated(model, format="qoperator", rules=rules)
    chosen = [entry for entry in report.plan.decisions if "a rule asks for others" in entry.reason.text]
    assert len(chosen) == 2
    assert not integer(report.model)
    for optimize in (False, True):
        assert largest_difference(model, report.model, optimize=optimize) < 0.08
