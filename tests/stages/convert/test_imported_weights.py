"""Products that quantize their input at run time, written in other formats with the codes of their weights.

They come from onnxq, from onnxruntime's quantizer, and as onnxruntime fuses them, from text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxq
import pytest
from onnx import numpy_helper
from onnxq.runtime.session import run_model
from tests.support.converting import ops, proto, written
from tests.support.imported import (
    FUSED,
    IMAGES,
    NET,
    OURS,
    assert_same_weights,
    fused,
    largest_difference,
    of_onnxq,
    of_onnxruntime,
    weights,
)


def check_weight_only(model: onnx.ModelProto) -> None:
    """Check both forms with quantized weights: the same weights bit for bit, the same outputs except rounding."""
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
    assert "quantized at run time" in reasons["Conv"].text
    assert any("3 imported nodes" in warning for warning in report.warnings)
    again = written(report.model, format="weight-only")
    assert again.SerializeToString(deterministic=True) == report.model.SerializeToString(deterministic=True)


def test_rules_keep_what_they_name() -> None:
    found = ops(written(of_onnxq({}), format="weight-only", keep=["MatMul"]))
    assert found["MatMulInteger"] == 2
    assert found["Conv"] == 1


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
    assert all("stays unchanged" in text for text in reasons)
