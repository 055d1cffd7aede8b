import io
import math
from dataclasses import replace

import pytest
from onnxq.cli.show_report import report_parts
from onnxq.types.plan import Action, Decision, Plan, Reason
from onnxq.types.report import Kernels, Latency, MetricResult, OutputError, Report, TensorError, Verification
from rich.console import Console


def decision(node, op, action, code, *, text="because", kernel=None):
    return Decision(node=node, op=op, action=action, reason=Reason(code=code, text=text), kernel=kernel)


DECISIONS = (
    *(decision(f"conv{i}", "Conv", Action.QUANTIZE, "integer-kernel", kernel="QLinearConv") for i in range(3)),
    decision("gemm", "Gemm", Action.QUANTIZE, "integer-kernel", kernel="QGemm"),
    decision("erf", "Erf", Action.KEEP, "no-kernel", text="Erf has no integer kernel on target cpu"),
    decision("tanh", "Tanh", Action.KEEP, "no-kernel", text="Tanh has no integer kernel on target cpu"),
)
VERIFICATION = Verification(
    outputs=(
        OutputError(name="logits", sqnr_plain=38.25, sqnr_served=37.14, max_abs_served=0.125, agreement_served=0.995),
        OutputError(name="broken[0]", sqnr_plain=math.inf, sqnr_served=-math.inf, max_abs_served=math.inf),
    ),
    tensors=tuple(TensorError(node=f"node{i}", tensor=f"t{i}", sqnr=30.0 + i) for i in range(9, -1, -1)),
    latency=Latency(float_ms=2.5, quantized_ms=1.0, speedup=2.5, runs=50, threads=1, batch=1),
    metric=MetricResult(name="accuracy", float_value=0.993, quantized_value=0.991),
    kernels=Kernels(
        float_ops={"Conv": 3},
        quantized_ops={"QLinearConv": 1, "com.microsoft::QLinearConv": 1, "Conv": 1},
        unfused={"conv2": "com.microsoft::FusedConv in float"},
    ),
    samples=128,
)
REPORT = Report(
    source="folder/model.onnx",
    output="folder/model.int8.onnx",
    float_bytes=800_000,
    quantized_bytes=200_000,
    plan=Plan(format="qdq", target="cpu", fingerprint="", decisions=DECISIONS, tensors={}),
    recipe={},
    verification=VERIFICATION,
    warnings=("first [warning]", "second"),
    seconds={"calibrate": 1.25, "verify": 2.0},
    calibration={"source": "calibration.npz", "samples": 100, "synthetic": False},
)


def render(report, width=80):
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    for part in report_parts(report):
        console.print(part)
    return console.file.getvalue()


def row(text, start):
    """The words of the line that begins with `start`, joined by single blanks."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith(start)]
    return " ".join(line.split())


def test_the_outcome_comes_first():
    text = render(REPORT)
    assert row(text, "accuracy") == "accuracy 99.30% 99.10% -0.20 points"
    assert row(text, "latency") == "latency, 1 thread, batch 1 2.5 ms 1 ms 2.50x faster"
    assert row(text, "size") == "size 800.0 kB 200.0 kB 4.00x smaller"
    places = [
        text.index(word) for word in ("accuracy", "latency", "size", "logits", "kept in float", "node0", "Written")
    ]
    assert places == sorted(places)


def test_errors_stand_as_served_and_with_the_optimizer_off():
    text = render(REPORT)
    assert row(text, "logits") == "logits 37.1 dB 38.2 dB 0.125 99.50%"
    assert row(text, "broken[0]") == "broken[0] broken exact inf -"


def test_slower_and_larger_are_said_plainly():
    latency = replace(VERIFICATION.latency, speedup=0.8, threads=0, batch=None)
    verification = replace(VERIFICATION, latency=latency)
    text = render(replace(REPORT, verification=verification, quantized_bytes=1_600_000))
    assert row(text, "latency, all cores").endswith("1.25x slower")
    assert row(text, "size").endswith("2.00x larger")


def test_nodes_are_counted_by_reason_and_the_kept_ones_explained():
    text = render(REPORT)
    assert row(text, "4  quantized") == "4 quantized"
    assert "4 integer-kernel Conv 3, Gemm 1" in " ".join(text.split())
    assert "2 kept in float 2 no-kernel Erf 1, Tanh 1 e.g. Erf has no integer kernel" in " ".join(text.split())


def test_the_worst_tensors_are_listed_worst_first():
    lines = [line.split()[-1] for line in render(REPORT).splitlines() if " dB  node" in line]
    assert lines == ["node0", "node1", "node2", "node3", "node4"]


def test_kernels_that_did_not_come_about_are_named():
    text = render(REPORT)
    assert "QLinearConv 2, Conv 1" in text
    assert row(text, "conv2") == "conv2 FusedConv in float, planned QLinearConv"


def test_warnings_files_and_time_are_shown():
    text = render(REPORT)
    assert "! first [warning]" in text
    assert "folder/model.int8.onnx" in text
    assert "folder/model.int8.report.json" in text
    assert "took 3.2 s (verify 2.0 s, calibrate 1.2 s)" in text


def test_made_up_inputs_are_mentioned_at_the_top():
    text = render(replace(REPORT, calibration={"synthetic": True, "samples": 8}))
    assert "made-up inputs" in text.splitlines()[1]


def test_a_report_without_verification_says_so():
    text = render(replace(REPORT, verification=None, output=None, warnings=(), seconds={}))
    assert "not verified" in text
    assert "latency" not in text
    assert "Written" not in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_cut(width):
    name = "/very/long/" + "x" * 100
    tensors = (TensorError(node=name, tensor="t", sqnr=1.0),)
    outputs = (replace(VERIFICATION.outputs[0], name=name),)
    text = render(replace(REPORT, verification=replace(VERIFICATION, tensors=tensors, outputs=outputs)), width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("x") >= 200


@pytest.mark.parametrize(
    ("action", "code", "word"),
    [
        (Action.QUANTIZE, "integer-kernel", "quantized"),
        (Action.KEEP, "imported", "rewritten"),
        (Action.KEEP, "already-quantized", "unchanged"),
        (Action.KEEP, "slower", "in float"),
    ],
)
def test_the_title_says_what_became_of_the_model(action, code, word):
    report = replace(REPORT, plan=replace(REPORT.plan, decisions=(decision("n", "MatMul", action, code),)))
    assert row(render(report), "model.onnx").startswith(f"model.onnx {word}: qdq")
