"""Models that are quantized already: integer operators are unchanged, and nothing is quantized twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxq
import pytest
from onnxq.graph.text import model_from_text
from onnxq.runtime.session import run_model
from tests.corpus.formats import FORMATS

NET = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[N,3,16,16] image) => (float[N,10] scores)
<float[16,3,3,3] w0, float[16] b0, float[16,16,3,3] w1, float[10,16] w2, float[10] b2>
{
  c = Conv <pads = [1,1,1,1]> (image, w0, b0)
  r = Relu (c)
  d = Conv <pads = [1,1,1,1]> (r, w1)
  t = Tanh (d)
  p = GlobalAveragePool (t)
  f = Flatten (p)
  scores = Gemm <transB = 1> (f, w2, b2)
}
"""
DATA = [{"image": np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)}]


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    return ir.to_proto(model_from_text(NET))


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
def test_the_second_time_changes_no_byte(net: onnx.ModelProto, fmt, tmp_path: Path) -> None:
    options = {"calibration": DATA, "check": False, **fmt.options}
    onnx.save(net, tmp_path / "net.onnx")
    onnxq.quantize(tmp_path / "net.onnx", tmp_path / "once.onnx", **options)
    again = onnxq.quantize(tmp_path / "once.onnx", tmp_path / "twice.onnx", **options)
    assert (tmp_path / "once.onnx").read_bytes() == (tmp_path / "twice.onnx").read_bytes()
    assert (tmp_path / "once.onnx").read_bytes() != (tmp_path / "net.onnx").read_bytes()
    assert any(entry.reason.code == "already-quantized" for entry in again.plan.decisions) or fmt.name == "float16"
    assert not any("came" in warning for warning in again.warnings)


ONE_FORM = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[5,2,16] x) => (float[5,1,2,24] y, float[5,2,6] z)
<float[1,96,16] w, float[1,96,24] r, float[5,24,6] m, int64[3] k = {5, 2, 24}>
{ y = LSTM <hidden_size = 24> (x, w, r) s = Reshape (y, k) z = MatMul (s, m) }
"""


@pytest.mark.parametrize("fmt", ["qdq", "qoperator", "weight-only"])
def test_what_has_one_form_only_is_not_said_to_lack_another(fmt: str) -> None:
    """LSTM quantizes at run time in formats that calibrate; a stack of matrices is unpacked in format weight-only."""
    model = ir.to_proto(model_from_text(ONE_FORM))
    rng = np.random.default_rng(0)
    options = {
        "calibration": [{"x": rng.standard_normal((5, 2, 16)).astype(np.float32)}],
        "check": False,
        "placement": "everywhere",
        "format": fmt,
    }
    once = onnxq.quantize(model, **options)
    again = onnxq.quantize(once.model, **options)
    assert not any("came" in warning for warning in again.warnings)
    assert again.model.SerializeToString(deterministic=True) == once.model.SerializeToString(deterministic=True)


def test_the_rest_is_quantized_around_what_is_quantized_already(net: onnx.ModelProto) -> None:
    part = onnxq.quantize(net, calibration=DATA, check=False, placement="everywhere", keep=["Gemm"])
    whole = onnxq.quantize(part.model, calibration=DATA, check=False, format="weight-only", weights="int8")
    codes = {entry.op: entry.reason.code for entry in whole.plan.decisions}
    assert codes["Conv"] == "already-quantized"
    assert codes["Gemm"] == "weights"
    stored = {tensor.name: tensor.SerializeToString() for tensor in part.model.graph.initializer}
    after = {tensor.name: tensor.SerializeToString() for tensor in whole.model.graph.initializer}
    assert {name: data for name, data in after.items() if name.startswith(("w0", "w1"))} == {
        name: data for name, data in stored.items() if name.startswith(("w0", "w1"))
    }
    before, now = (run_model(model, DATA[0])["scores"] for model in (part.model, whole.model))
    np.testing.assert_allclose(now, before, atol=0.02 * np.abs(before).max())


def test_no_second_pair_around_what_stands_between_pairs() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[1,8] x) => (float[1,8] y) <float s = {0.05}, uint8 z = {128}, float t = {0.1}>
    { q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) a = Sigmoid (d) b = Add (a, d)
      r = QuantizeLinear (b, t, z) y = DequantizeLinear (r, t, z) }"""
    report = onnxq.quantize(
        model_from_text(text),
        calibration=[{"x": np.ones((1, 8), np.float32)}],
        check=False,
        placement="everywhere",
    )
    assert {entry.op: entry.reason.code for entry in report.plan.decisions} == dict.fromkeys(
        ("QuantizeLinear", "DequantizeLinear", "Sigmoid", "Add"), "already-quantized"
    )
    assert sum(node.op_type == "QuantizeLinear" for node in report.model.graph) == 2


MAKE = """
import sys, numpy as np, onnxq
data = [{"image": np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)}]
for fmt in ("qdq", "weight-only"):
    onnxq.quantize(sys.argv[1], f"{sys.argv[2]}.{fmt}.onnx", calibration=data, check=False, format=fmt,
                   weights="int8,stochastic" if fmt == "weight-only" else "method=mse")
"""


def test_the_same_bytes_in_every_process_whatever_its_threads(net: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(net, tmp_path / "net.onnx")
    results = []
    for index, (threads, seed) in enumerate((("1", "1"), ("2", "77"))):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", MAKE, str(tmp_path / "net.onnx"), str(tmp_path / f"made{index}")]
        subprocess.run(command, check=True, env=environment)
        results.append([path.read_bytes() for path in sorted(tmp_path.glob(f"made{index}.*.onnx"))])
    assert len(results[0]) == 2
    assert results[0] == results[1]


def test_a_report_rebuilds_its_model(net: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(net, tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", **DATA[0])
    options = {"calibration": str(tmp_path / "data.npz"), "keep": ["Gemm"], "calibrator": "minmax", "check": False}
    onnxq.quantize(tmp_path / "net.onnx", tmp_path / "one.onnx", **options)
    onnxq.quantize(tmp_path / "net.onnx", tmp_path / "two.onnx", recipe=tmp_path / "one.report.json", check=False)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
