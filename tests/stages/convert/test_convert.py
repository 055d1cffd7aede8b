"""Imported quantized models, written in another format: every code, scale and zero point is the one that it had.

They come from onnxq itself, from onnxruntime's own quantizer and, as training exports them, from text.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxq
import pytest
from onnx.reference import ReferenceEvaluator
from onnxq.runtime.session import run_model
from tests.support.converting import ops, proto, written

NET = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[2,3,16,16] image) => (float[2,10] scores)
<float[16,3,3,3] w0, float[16] b0, float[16,1,3,3] w1, float[16,16,1,1] w2, float[16] b2, float[10,16] w3, float[10] b3,
 float[16,10] w4>
{
  c = Conv <pads = [1,1,1,1]> (image, w0, b0)
  r = Relu (c)
  m = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r)
  d = Conv <pads = [1,1,1,1], group = 16> (m, w1)
  s = Sigmoid (d)
  a = Add (s, m)
  e = Conv (a, w2, b2)
  p = GlobalAveragePool (e)
  f = Flatten (p)
  g = Gemm <transB = 1> (f, w3, b3)
  h = MatMul (f, w4)
  scores = Mul (g, h)
}
"""
PRODUCTS = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[N,80] x) => (float[N,24] y)
<float[80,64] w0, float[64] b0, float[64,24] w1>
{ a = MatMul (x, w0) b = Add (a, b0) c = Relu (b) y = MatMul (c, w1) }
"""
IMAGES = [{"image": np.random.default_rng(seed).standard_normal((2, 3, 16, 16)).astype(np.float32)} for seed in (0, 1)]
ROWS = {"x": np.random.default_rng(0).standard_normal((3, 80)).astype(np.float32)}
OTHER = {"qdq": "qoperator", "qoperator": "qdq"}


def constants(model: onnx.ModelProto) -> set[tuple[str, tuple[int, ...], bytes]]:
    """Types, shapes and bytes of what is stored, except scales of biases, which integer operators imply."""
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    biases = {
        name
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in {t.name for t in model.graph.initializer if t.data_type == 6}
        for name in node.input[1:]
    }
    names = [tensor.name for tensor in model.graph.initializer]
    return {
        (array.dtype.name, array.shape, array.tobytes())
        for name, array in zip(names, arrays, strict=True)
        if name not in biases
    }


def largest_difference(one: onnx.ModelProto, two: onnx.ModelProto, feeds: Any, *, optimize: bool) -> float:
    """Return the largest difference of outputs, as a share of the largest value."""
    first, second = (run_model(model, feeds, optimize=optimize) for model in (one, two))
    return max(float(np.abs(first[name] - second[name]).max() / np.abs(first[name]).max()) for name in first)


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    return proto(NET)


@pytest.mark.parametrize("form", OTHER)
def test_there_and_back_gives_the_same_parameters(net: onnx.ModelProto, form: str) -> None:
    model = onnxq.quantize(net, calibration=IMAGES, check=False, placement="everywhere", format=form).model
    there = written(model, format=OTHER[form])
    back = written(there, format=form)
    assert ops(back) - ops(model) == Counter()
    assert constants(back) == constants(model)
    integer = {"qdq": there, "qoperator": back}[form]
    assert {"QLinearConv", "QLinearAdd", "QGemm", "QLinearSigmoid"} <= set(ops(integer))
    assert not {"Conv", "Gemm", "Add", "MatMul"} & set(ops(integer))
    for converted in (there, back):
        assert largest_difference(model, converted, IMAGES[0], optimize=True) == 0  # the same kernels


def test_what_was_written_anew_says_so_and_needs_no_data(net: onnx.ModelProto) -> None:
    model = onnxq.quantize(net, calibration=IMAGES, check=False, placement="everywhere").model
    report = onnxq.quantize(model, format="qoperator")
    codes = {entry.op: entry.reason.code for entry in report.plan.decisions}
    assert codes["QLinearConv"] == codes["MaxPool"] == "imported"  # also what moves codes as it is
    assert "already-quantized" in {codes["QuantizeLinear"], codes["DequantizeLinear"]}
    assert any("imported nodes" in warning for warning in report.warnings)
    assert not any("nothing was quantized" in warning for warning in report.warnings)
    assert report.verification is not None
    assert min(entry.sqnr_served for entry in report.verification.outputs) > 25


def test_the_rest_stays_in_float_without_data_and_is_quantized_with_it(net: onnx.ModelProto) -> None:
    model = onnxq.quantize(net, calibration=IMAGES, check=False, placement="everywhere", keep=["Conv_0"]).model
    options = {"format": "qoperator", "placement": "everywhere", "check": False}
    alone = onnxq.quantize(model, **options)
    reasons = {entry.node: entry.reason for entry in alone.plan.decisions}
    assert reasons["Conv_0"].code == "rule"
    assert "give calibration data" in reasons["Conv_0"].text
    assert ops(alone.model)["QLinearConv"] == 2
    assert ops(onnxq.quantize(model, calibration=IMAGES, **options).model)["QLinearConv"] == 3
    again = onnxq.quantize(model, recipe=alone.recipe, check=False)
    assert again.model.SerializeToString(deterministic=True) == alone.model.SerializeToString(deterministic=True)


def test_a_second_time_changes_nothing(net: onnx.ModelProto, tmp_path: Path) -> None:
    model = onnxq.quantize(net, calibration=IMAGES, check=False, placement="everywhere").model
    onnx.save(model, tmp_path / "qdq.onnx")
    for source, target in (("qdq", "once"), ("once", "twice")):
        onnxq.quantize(tmp_path / f"{source}.onnx", tmp_path / f"{target}.onnx", check=False, format="qoperator")
    assert (tmp_path / "once.onnx").read_bytes() == (tmp_path / "twice.onnx").read_bytes()


def test_rules_decide_node_by_node(net: onnx.ModelProto) -> None:
    model = onnxq.quantize(net, calibration=IMAGES, check=False, placement="everywhere").model
    found = ops(written(model, format="qoperator", keep=["Gemm"]))
    assert found["Gemm"] == 1
    assert found["QGemm"] == 0
    assert found["QLinearConv"] == 3


@pytest.fixture(scope="module", params=["u8s8", "s8s8", "u8u8"])
def types(request: pytest.FixtureRequest) -> dict[str, Any]:
    from onnxruntime.quantization import QuantType

    signs = {"u": QuantType.QUInt8, "s": QuantType.QInt8}
    return {"activation_type": signs[request.param[0]], "weight_type": signs[request.param[2]]}


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_models_of_another_quantizer(
    net: onnx.ModelProto, types: dict[str, Any], form: str, per_channel: bool, tmp_path: Path
) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        left = iter(IMAGES)

        def get_next(self) -> Any:
            return next(self.left, None)

    Reader.left = iter(IMAGES)
    onnx.save(net, tmp_path / "net.onnx")
    # 7 bits: pairs of larger codes would saturate on some processors, and be chosen again.
    options = {"quant_format": getattr(QuantFormat, form), "per_channel": per_channel, "reduce_range": True, **types}
    quantize_static(tmp_path / "net.onnx", tmp_path / "theirs.onnx", Reader(), **options)
    theirs = onnx.load(tmp_path / "theirs.onnx")
    there = written(theirs, format=OTHER[form.lower()])
    back = written(there, format=form.lower())
    assert constants(there) <= constants(theirs) | scalars(theirs)
    assert constants(back) <= constants(theirs) | scalars(theirs)
    weights = {place for place in constants(theirs) if len(place[1]) > 1}
    assert len(weights) == 5
    assert weights <= constants(there)
    integer = there if form == "QDQ" else back
    assert not {"Conv", "Gemm", "MatMul", "Add", "Mul"} & set(ops(integer))
    for converted in (there, back):
        assert largest_difference(theirs, converted, IMAGES[0], optimize=True) < 1e-6
    # What kernels compute is what the standard says that Q and DQ mean, except their rounding.
    floats = back if form == "QDQ" else there
    expected = by_the_standard(floats, IMAGES[0])
    assert np.abs(run_model(integer, IMAGES[0])["scores"] - expected).max() < 0.06 * np.abs(expected).max()


def by_the_standard(model: onnx.ModelProto, feeds: Any) -> np.ndarray:
    """Return what onnx.reference computes; it has DequantizeLinear from opset 19 on, which changed no operator here."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    for opset in copy.opset_import:
        opset.version = max(opset.version, 19) if not opset.domain else opset.version
    (result,) = ReferenceEvaluator(copy).run(None, feeds)
    return np.asarray(result)


def scalars(model: onnx.ModelProto) -> set[tuple[str, tuple[int, ...], bytes]]:
    """Return the constants of one element as they are without axes."""
    return {(kind, (), data) for kind, shape, data in constants(model) if shape == (1,)}


TRAINED = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[2,3,8,8] x) => (float[2,4,8,8] y)
<float[4,3,3,3] w, float[4] b, float xs = {0.03}, uint8 xz = {120}, float[4] ws = {0.008, 0.010, 0.012, 0.006},
 int8[4] wz = {0, 0, 0, 0}, float ys = {0.05}, uint8 yz = {0}>
{
  xq = QuantizeLinear (x, xs, xz) xd = DequantizeLinear (xq, xs, xz)
  wq = QuantizeLinear <axis = 0> (w, ws, wz) wd = DequantizeLinear <axis = 0> (wq, ws, wz)
  c = Conv <pads = [1,1,1,1]> (xd, wd, b)
  r = Relu (c)
  yq = QuantizeLinear (r, ys, yz) y = DequantizeLinear (yq, ys, yz)
}
"""


def test_a_model_from_training_keeps_what_it_learnt() -> None:
    model = proto(TRAINED)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    found = written(model, format="qoperator")
    assert ops(found) == Counter({"QuantizeLinear": 1, "QLinearConv": 1, "DequantizeLinear": 1})
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    scale = arrays["ws"].reshape(4, 1, 1, 1)
    codes = np.clip(np.rint(arrays["w"] / scale), -128, 127).astype(np.int8)
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in found.graph.initializer]
    assert sum(array.dtype == np.int8 and np.array_equal(array, codes) for array in stored) == 1
    assert any(np.array_equal(array, arrays["ws"]) for array in stored)
    expected = by_the_standard(model, feeds)
    for optimize in (False, True):
        steps = np.abs(run_model(found, feeds, optimize=optimize)["y"] - expected) / 0.05
        assert steps.max() <= 1.01  # one step of the output, where rounding of the bias tips the balance
        assert (steps > 0.5).mean() < 0.02


@pytest.mark.parametrize("form", ["qoperator", "qdq"])
def test_a_transpose_between_codes_and_their_product_is_carried_out(form: str) -> None:
    """As torch exports a linear layer that was trained with rounding: the weight is stored by output."""
    model = proto("""
    <ir_version: 9, opset_import: ["" : 17]>
    net (float[5,8] x) => (float[5,4] y)
    <int8[4,8] w, float xs = {0.03}, uint8 xz = {120}, float[4] ws = {0.004, 0.005, 0.006, 0.003},
     int8[4] wz = {0, 0, 0, 0}, float ys = {0.02}, uint8 yz = {130}>
    {
      xq = QuantizeLinear (x, xs, xz) xd = DequantizeLinear (xq, xs, xz)
      wd = DequantizeLinear <axis = 0> (w, ws, wz) wt = Transpose <perm = [1, 0]> (wd)
      m = MatMul (xd, wt)
      yq = QuantizeLinear (m, ys, yz) y = DequantizeLinear (yq, ys, yz)
    }
    """)
    codes = np.random.default_rng(0).integers(-64, 65, (4, 8)).astype(np.int8)  # no pair saturates
    model.graph.initializer.append(onnx.numpy_helper.from_array(codes, "w"))
    del model.graph.value_info[:]
    feeds = {"x": np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)}
    found = written(model, format="qoperator")
    assert ops(found) == Counter({"QuantizeLinear": 1, "QLinearMatMul": 1, "DequantizeLinear": 1})
    found = found if form == "qoperator" else written(found, format="qdq")
    assert "Transpose" not in ops(found)
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in found.graph.initializer]
    assert any(np.array_equal(array, codes.T) for array in stored)
    expected = by_the_standard(model, feeds)
    assert np.abs(run_model(found, feeds, optimize=False)["y"] - expected).max() <= 0.0201  # a step


BLOCKS = [
    {},
    {"weights": "uint4,per-block(16)"},
    {"weights": "int8,symmetric,per-block(32)"},
    {"weights": "int2,symmetric,per-block(16)"},
]


@pytest.mark.parametrize("options", BLOCKS, ids=str)
def test_blocks_there_and_back(options: dict[str, Any]) -> None:
    float_model = proto(PRODUCTS)
    contrib = onnxq.quantize(float_model, format="weight-only", check=False, **options).model
    standard = onnxq.quantize(float_model, format="weight-only", portable=True, check=False, **options).model
    assert ops(contrib)["MatMulNBits"] == 2
    there = written(contrib, format="weight-only", portable=True, **options)
    back = written(there, format="weight-only", **options)
    assert {(t.name, t.SerializeToString()) for t in there.graph.initializer} == {
        (t.name, t.SerializeToString()) for t in standard.graph.initializer
    }
    assert {(t.name, t.SerializeToString()) for t in back.graph.initializer} == {
        (t.name, t.SerializeToString()) for t in contrib.graph.initializer
    }
    assert ops(back) == ops(contrib)
    assert largest_difference(contrib, back, ROWS, optimize=True) == 0


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("form", "bits"), [("QDQ", 4), ("QOperator", 4), ("QOperator", 8)])
def test_blocks_of_another_quantizer(form: str, bits: int, symmetric: bool) -> None:
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(
        proto(PRODUCTS),
        bits=bits,
        block_size=32,
        is_symmetric=symmetric,
        accuracy_level=4,
        quant_format=getattr(QuantFormat, form),
    )
    quantizer.process()
    theirs = quantizer.model.model
    there = written(theirs, format="weight-only", portable=form == "QOperator")
    back = written(there, format="weight-only", portable=form == "QDQ")
    assert ops(there)["MatMulNBits"] == (2 if form == "QDQ" else 0)
    assert ops(back)["MatMulNBits"] == (0 if form == "QDQ" else 2)
    assert largest_difference(theirs, back, ROWS, optimize=True) < 1e-6
    expected = by_the_standard(back if form == "QDQ" else there, ROWS)
    for model in (there, back):
        actual = run_model(model, ROWS)["y"]
        assert np.abs(actual - expected).max() < 0.02 * np.abs(expected).max()  # activations of 8 bits in the kernel


def test_what_stands_in_a_body_is_written_too() -> None:
    text = """
    <ir_version: 9, opset_import: ["" : 17]>
    net (bool cond, float[2,8] x) => (float[2,4] y)
    <float[8,4] w>
    {
      y = If (cond) <
        then_branch = a () => (float[2,4] t) { t = MatMul (x, w) },
        else_branch = b () => (float[2,4] e) { m = MatMul (x, w) e = Sigmoid (m) }>
    }
    """
    rng = np.random.default_rng(0)
    data = [{"cond": np.array(flag), "x": rng.standard_normal((2, 8)).astype(np.float32)} for flag in (True, False)]
    model = onnxq.quantize(proto(text), calibration=data, check=False, placement="everywhere").model
    found = written(model, format="qoperator")
    inner = [node.op_type for attribute in found.graph.node[-1].attribute for node in attribute.g.node]
    assert "MatMul" not in inner
    for feeds in data:
        assert largest_difference(model, found, feeds, optimize=True) < 1e-6


def test_a_product_that_the_standard_has_no_form_for_stays_and_says_why() -> None:
    model = onnxq.quantize(proto(PRODUCTS), format="weight-only", check=False).model
    first, second = (node for node in model.graph.node if node.op_type == "MatMulNBits")
    (scale,) = (tensor for tensor in model.graph.initializer if tensor.name == first.input[2])
    model.graph.input.append(onnx.helper.make_tensor_value_info(scale.name, scale.data_type, scale.dims))  # a default
    report = onnxq.quantize(model, format="weight-only", portable=True, check=False)
    reasons = {entry.node: entry.reason for entry in report.plan.decisions}
    assert "its codes, scales or zero points are computed" in reasons[first.name].text
    assert reasons[second.name].code == "imported"
    assert ops(report.model)["MatMulNBits"] == 1
    assert any("stay unchanged" in warning for warning in report.warnings)


def test_a_product_that_a_rule_keeps_stays_as_it_came() -> None:
    model = onnxq.quantize(proto(PRODUCTS), format="weight-only", check=False).model
    (name, _) = (node.name for node in model.graph.node if node.op_type == "MatMulNBits")
    assert ops(written(model, format="weight-only", portable=True, keep=[name]))["MatMulNBits"] == 1
