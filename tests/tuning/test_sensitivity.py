"""Sensitivities: each layer and tensor alone, against drafts made by hand and rounding in float64."""

import json
import math

import numpy as np
import onnxq
import pytest
from onnxq.cli import main
from onnxq.errors import VerificationError
from onnxq.graph.text import model_from_text
from onnxq.types.report import OutputError

TEXT = """
<ir_version: 9, opset_import: ["" : 17]>
g (float[8,16] x) => (float[8,16] y)
<float[16,16] w1, float[16,32] w2, float[32,16] w3>
{
  [m1] a = MatMul (x, w1)  [t1] ta = Tanh (a)
  [m2] b = MatMul (ta, w2)  [t2] tb = Tanh (b)
  [m3] y = MatMul (tb, w3)
}
"""


@pytest.fixture
def model():
    return model_from_text(TEXT)


@pytest.fixture
def feeds():
    return {"x": np.random.default_rng(1).standard_normal((8, 16)).astype(np.float32)}


def served(report) -> float:
    (output,) = report.verification.outputs
    assert isinstance(output, OutputError)
    return output.sqnr_served


def test_each_layer_is_what_quantizing_nothing_else_does(model, feeds):
    found = onnxq.sensitivity(model, calibration=[feeds], tensors=False)
    assert [effect.sqnr for effect in found.units] == sorted(effect.sqnr for effect in found.units)
    by_node = {effect.nodes: effect for effect in found.units}
    assert set(by_node) == {("m1",), ("m2",), ("m3",)}
    for node in ("m1", "m2", "m3"):
        others = [name for name in ("m1", "m2", "m3") if name != node]
        report = onnxq.quantize(model, calibration=[feeds], keep=others, guard=False)
        assert by_node[node,].sqnr == pytest.approx(served(report), abs=1e-6)
        assert by_node[node,].outputs == {"y": by_node[node,].sqnr}
        assert by_node[node,].saved > 0
    together = onnxq.quantize(model, calibration=[feeds], guard=False)
    assert found.whole.sqnr == pytest.approx(served(together), abs=1e-6)


def test_each_tensor_is_rounded_alone(model, feeds):
    found = onnxq.sensitivity(model, calibration=[feeds])
    by_name = {effect.tensor: effect for effect in found.tensors}
    assert {effect.role for effect in found.tensors} == {"activation", "weight"}
    assert set(by_name) >= {"x", "w1", "w2", "w3", "ta", "tb"}
    x, (w1, w2, w3) = (
        feeds["x"].astype(np.float64),
        (model.graph.initializers[name].const_value.numpy().astype(np.float64) for name in ("w1", "w2", "w3")),
    )

    def run(weight):
        return np.tanh(np.tanh(x @ w1) @ w2) @ weight

    def rounded(weight):  # int8, symmetric, a scale for each column
        scale = np.abs(weight).max(axis=0) / 127
        return np.round(weight / scale) * scale

    noise = run(rounded(w3)) - run(w3)
    by_hand = 10 * math.log10((run(w3) ** 2).sum() / (noise**2).sum())
    assert by_name["w3"].nodes == ("m3",)
    if "mse" not in by_name["w3"].scheme:
        assert by_name["w3"].sqnr == pytest.approx(by_hand, abs=1.5)


def test_a_metric_is_scored_for_each(model, feeds):
    def spread(run):
        return float(run(feeds)["y"].std())

    import sys
    from types import ModuleType

    module = ModuleType("scores_of_a_test")
    module.spread = spread
    sys.modules["scores_of_a_test"] = module
    found = onnxq.sensitivity(model, calibration=[feeds], metric="scores_of_a_test:spread", tensors=False)
    assert found.metric == "spread"
    assert found.float_metric == pytest.approx(found.whole.metric, rel=0.2)
    assert all(effect.metric is not None and effect.metric != found.float_metric for effect in found.units)


def test_nothing_to_look_at():
    model = model_from_text('<ir_version: 9, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Tanh (x) }')
    with pytest.raises(VerificationError, match="there is nothing to look at"):
        onnxq.sensitivity(model)


def test_on_the_command_line(tmp_path, monkeypatch, capsys, feeds, model):
    import onnx_ir as ir

    monkeypatch.chdir(tmp_path)
    ir.save(model, "net.onnx")
    np.savez("data.npz", **feeds)
    words = ["sensitivity", "net.onnx", "--calibration", "data.npz"]
    assert main([*words, "--picture", "alone.png"]) == 0
    seen = capsys.readouterr()
    assert "3 layers, each quantized alone" in seen.out
    assert "all 3 together" in seen.out
    assert seen.err == ""
    assert (tmp_path / "alone.png").read_bytes().startswith(b"\x89PNG")
    assert main([*words, "--json", "--no-tensors"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["units"]) == 3
    assert printed["tensors"] == []
    assert main([*words, "--picture", "alone.gif"]) == 3
