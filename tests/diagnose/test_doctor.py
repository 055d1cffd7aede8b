"""The doctor: coverage by bytes and operations, and one small sick model for every hazard."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxq
import pytest
from onnxq.cli import main
from onnxq.cli.show_report import report_parts
from onnxq.cli.terminal import show
from onnxq.diagnose.doctor import advice_for
from onnxq.errors import VerificationError
from onnxq.graph.text import model_from_text
from onnxq.types.diagnosis import State
from tests.support.quantizing import quantize_text, text

MLP = text("a = MatMul (x, w1) r = Relu (a) y = MatMul (r, w2)", "float[8,64] x", "float[8,16] y",
           "float[64,32] w1, float[32,16] w2")  # fmt: skip


def hazards(body, inputs, outputs="float[N] y", weights="", opset=17, **options):
    found = onnxq.doctor(model_from_text(text(body, inputs, outputs, weights, opset)), **options)
    return {entry.code: entry for entry in found.hazards}


def test_a_float_model_is_told_by_bytes_and_operations():
    found = onnxq.doctor(model_from_text(MLP))
    assert [(entry.node, entry.op, entry.state) for entry in found.operators] == [
        ("MatMul_0", "MatMul", State.POSSIBLE),
        ("MatMul_2", "MatMul", State.POSSIBLE),
    ]
    assert [entry.weight_bytes for entry in found.operators] == [64 * 32 * 4, 32 * 16 * 4]
    assert [entry.macs for entry in found.operators] == [8 * 64 * 32, 8 * 32 * 16]
    assert not found.hazards
    assert not found.observed


@pytest.mark.parametrize("form", ["qdq", "qoperator", "dynamic", "weight-only"])
def test_a_quantized_model_is_covered_in_every_format(form):
    done = quantize_text(MLP, format=form, placement="everywhere")
    found = onnxq.doctor(done.model)
    assert {entry.state for entry in found.operators} == {State.QUANTIZED}
    assert sum(entry.macs for entry in found.operators) == 8 * 64 * 32 + 8 * 32 * 16
    size = sum(entry.weight_bytes for entry in found.operators)
    assert size == (64 * 32 + 32 * 16) // (2 if form == "weight-only" else 1)
    assert "already-quantized" in {entry.code for entry in found.hazards}


def test_what_stays_in_float_has_a_reason_and_advice():
    found = onnxq.doctor(
        model_from_text(
            text(
                'w = Relu (v) a = MatMul (x, w) e = Einsum <equation = "ij,jk->ik"> (a, k) y = MatMul (e, e2)',
                "float[8,64] x, float[64,64] v, float[32,16] e2",
                "float[8,16] y",
                "float[64,32] k",
            )
        )
    )
    states = {entry.node: (entry.state, entry.reason and entry.reason.code) for entry in found.operators}
    assert states["Einsum_2"] == (State.FLOAT, "no-kernel")
    assert states["MatMul_1"] == (State.POSSIBLE, None)
    assert set(found.advice) == {"no-kernel"}
    assert all(found.advice.values())
    found = onnxq.doctor(model_from_text(text("y = MatMul (x, z)", "float[8,8] x, float[8,8] z", "float[8,8] y")),
                         format="weight-only")  # fmt: skip
    assert [entry.reason.code for entry in found.operators] == ["computed-weight"]


def test_a_weight_that_several_read_counts_once():
    found = onnxq.doctor(
        model_from_text(text("a = MatMul (x, w) y = MatMul (a, w)", "float[4,32] x", "float[4,32] y", "float[32,32] w"))
    )
    assert [entry.weight_bytes for entry in found.operators] == [4096, 0]


def test_control_flow_and_what_cannot_be_observed_in_it():
    found = hazards(
        """y = Scan <num_scan_inputs = 1, body = s (float[4,8] row) => (float[4,8] o) {
               o = If (c) <then_branch = t () => (float[4,8] p) { p = Neg (row) },
                           else_branch = e () => (float[4,8] q) { q = Abs (row) }> }> (x)""",
        "float[3,4,8] x, bool c",
        "float[3,4,8] y",
    )
    assert found["control-flow"].where == ("Scan_0", "Scan_0/body/If_0")
    assert len(found["hidden"].where) == 2


def test_custom_operators_and_types():
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>
        g (float[4] x, float16[4] h, double[4] d) => (float[4] y, float16[4] k, double[4] e)
        { y = acme.Spin (x)  k = Relu (h)  e = Relu (d) }"""
    )
    found = {entry.code: entry for entry in onnxq.doctor(model).hazards}
    assert "acme" in found["custom-operator"].text
    assert found["custom-operator"].where == ("Spin_0",)
    assert found["float16"].where == ("Relu_1",)
    assert found["double"].where == ("Relu_2",)


def test_wrong_declared_shapes():
    model = model_from_text(text("a = Relu (x) y = Neg (a)", "float[2,3] x", "float[2,3] y"))
    model.graph.outputs[0].shape = ir.Shape([2, 4])
    model.graph[0].outputs[0].shape = ir.Shape([6])
    found = {entry.code: entry for entry in onnxq.doctor(model).hazards}
    assert set(found["wrong-shape"].where) == {"a", "y"}


def test_masks_in_constants():
    assert hazards("y = Add (x, m)", "float[2] x", "float[2] y", "float[2] m = {0, -3.4e38}")["mask"].where == (
        "Add_0",
    )


def weights(array, body="y = Conv (x, w, b)", bias=None):
    model = model_from_text(text(body, "float[1,4,8,8] x", "float[1,6,6,6] y", "float[6,4,3,3] w, float[6] b"))
    model.graph.initializers["w"].const_value = ir.tensor(array.astype(np.float32))
    if bias is not None:
        model.graph.initializers["b"].const_value = ir.tensor(bias.astype(np.float32))
    return {entry.code: entry for entry in onnxq.doctor(model).hazards}


W = np.random.default_rng(0).standard_normal((6, 4, 3, 3))


def test_channels_dead_wild_and_tiny():
    scale = np.ones((6, 1, 1, 1))
    scale[2] = 0
    assert weights(W * scale)["dead-channels"].where == ("w",)
    scale[2] = 1000
    assert weights(W * scale)["channel-spread"].where == ("w",)
    scale[2] = 1e-12
    assert weights(W * scale, bias=np.ones(6))["tiny-scale"].where == ("b",)
    assert not weights(W)
    array = W.copy()
    array[0, 0, 0, 0] = np.nan
    assert weights(array)["not-finite"].where == ("w",)


@pytest.mark.parametrize(("target", "saturates"), [("cpu-vnni", True), ("cpu-avx2", False)])
@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_saturation_of_a_quantized_model(form, target, saturates):
    body = "y = Conv (x, w, b)"
    done = quantize_text(
        text(body, "float[1,8,8,8] x", "float[1,16,6,6] y", "float[16,8,3,3] w, float[16] b"),
        format=form,
        target=target,
    )
    found = [entry for entry in onnxq.doctor(done.model).hazards if entry.code == "saturation"]
    assert bool(found) is saturates
    assert all("or in `qdq` again" in entry.advice for entry in found)


def test_products_of_two_activations_whose_extents_inputs_tell_hold_no_weight_that_saturates():
    found = hazards(
        "y = QLinearMatMul (a, s, p, b, s, z, s, p)",
        "uint8[B,4,N] a, int8[B,N,4] b",
        "uint8[B,4,4] y",
        "float s = {1.0}, uint8 p = {0}, int8 z = {0}",
    )
    assert "saturation" not in found


def test_with_data_ranges_are_looked_at_too():
    x = np.random.default_rng(0).standard_normal((16, 32)).astype(np.float32)
    x[:, 3] *= 500
    found = hazards(
        "p = Sigmoid (z) b = Concat <axis = 1> (p, x) m = Add (b, mask) s = Softmax (m) y = MatMul (x, w)",
        "float[16,32] x, float[16,32] z, float[16,64] mask",
        "float[16,16] y, float[16,64] s",
        "float[32,16] w",
        calibration=[{"x": x, "z": np.zeros((16, 32), np.float32), "mask": np.full((16, 64), -np.inf, np.float32)}],
    )
    assert found["wide-range"].where == ("Concat_1",)
    assert "Add_2" in found["mask"].where
    assert found["outlier-channels"].where == ("x",)


def test_the_command_prints_tables_and_json(tmp_path, capsys):
    path = tmp_path / "m.onnx"
    onnx.save(ir.to_proto(model_from_text(MLP)), path)
    assert main(["doctor", str(path)]) == 0
    out = capsys.readouterr().out
    assert "in float, could be quantized" in out
    assert "100%" in out
    assert main(["doctor", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["state"] for entry in found["operators"]] == ["possible", "possible"]


EMPTY = text("y = Relu (x)", "float[4] x", "float[4] y")


def test_where_nothing_can_be_quantized_nothing_is_written(tmp_path, capsys):
    path, output = tmp_path / "m.onnx", tmp_path / "q.onnx"
    onnx.save(ir.to_proto(model_from_text(EMPTY)), path)
    assert main(["quantize", str(path), "-o", str(output)]) == 1
    captured = capsys.readouterr()
    assert "nothing can be quantized: lone-clamp 1 (Relu)" in " ".join(captured.err.split())
    assert "--allow-empty" in captured.err
    assert not output.exists()
    assert main(["quantize", str(path), "-o", str(output), "--allow-empty"]) == 0
    assert output.exists()


def test_zero_coverage_carries_its_report():
    with pytest.raises(VerificationError) as caught:
        onnxq.quantize(model_from_text(EMPTY))
    assert [entry.reason.code for entry in caught.value.report.plan.decisions] == ["lone-clamp"]
    assert onnxq.quantize(model_from_text(EMPTY), allow_empty=True).model is not None


def test_a_model_that_is_quantized_already_is_not_empty():
    done = quantize_text(MLP, format="qoperator", placement="everywhere")
    assert onnxq.quantize(done.model, check=False).model is not None


def test_a_report_tells_coverage_by_bytes_and_operations(capsys):
    model = model_from_text(
        text(
            'e = Einsum <equation = "ij,jk->ik"> (x, k) y = MatMul (e, w)',
            "float[8,64] x",
            "float[8,16] y",
            "float[64,32] k, float[32,16] w",
        )
    )
    report = onnxq.quantize(model, check=False)
    assert report.coverage.weight_bytes == {"no-kernel": 64 * 32 * 4, "quantized": 32 * 16 * 4}
    assert report.coverage.macs == {"no-kernel": 8 * 64 * 32, "quantized": 8 * 32 * 16}
    show(*report_parts(report))
    shown = " ".join(capsys.readouterr().out.split())
    assert "quantized: 20% of the operations and 20% of the bytes of weights" in shown
    assert "weights in float: no-kernel 8.2 kB" in shown


QUANTIZED = {"integer-kernel", "weights", "absorbed"}  # codes of nodes that are quantized


def test_every_reason_code_has_advice_and_a_line_in_the_docs():
    root = Path(onnxq.__file__).parent
    sources = [
        path for room in ("stages", "tuning") for path in (root / room).rglob("*.py") if path.name != "float_types.py"
    ]
    pattern = r'(?:kept\(\s*|Reason\(\s*code=|return |_UNSEEN = |keep\(\w[\w.]*, )"([a-z]+(?:-[a-z]+)*)"(?:,|\n)'
    found = {code for path in sources for code in re.findall(pattern, path.read_text(encoding="utf-8"))}
    assert {"no-kernel", "bias-shape", "mask", "not-observed", "hidden", "slower"} <= found
    documented = (root.parent / "docs" / "doctor.md").read_text(encoding="utf-8")
    for code in found - QUANTIZED:
        assert f"`{code}`" in documented, code
        assert advice_for(code) != advice_for("no such code"), code


def test_nodes_that_the_runtime_computes_wrongly_are_named():
    codes = f"uint8[4,2,32] q = {{{', '.join(['3'] * 256)}}}"
    product = (
        "y = com.microsoft.MatMulNBits <K = 64, N = 4, bits = 8, block_size = 32, accuracy_level = LEVEL> (x, q, s)"
    )
    given = "float[2,64] x, float[4,2] s", "float[2,4] y", codes
    found = hazards(product.replace("LEVEL", "4"), *given)["runtime-fault"]
    assert "'nbits-computed'" in found.text
    assert "make them initializers" in found.advice
    assert found.where == ("MatMulNBits_0",)
    assert "runtime-fault" not in hazards(product.replace("LEVEL", "1"), *given)
