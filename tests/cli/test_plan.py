"""`onnxq plan` and `onnxq inspect`: every node with its reason, everything about one node, nothing written."""

import json
from pathlib import Path

import pytest
from onnxq.cli import main
from onnxq.files.plan import plan_from_json
from rich.text import Text

PLAN = ["plan", "net.onnx", "--calibration", "data.npz", "--placement", "everywhere"]
NODES = ["conv", "relu", "tanh", "pool", "flatten", "gemm"]

Output = pytest.CaptureFixture[str]


def test_every_node_has_a_line_with_its_reason(folder: Path, capsys: Output) -> None:
    before = sorted(folder.iterdir())
    assert main(PLAN) == 0
    seen = capsys.readouterr()
    lines = seen.out.splitlines()
    assert [line.split()[2] for line in lines[1 : 1 + len(NODES)]] == NODES
    (tanh,) = [line for line in lines if " tanh " in line]
    assert tanh.startswith("keep")
    assert "Tanh" in tanh.partition(" tanh ")[2]
    (conv,) = [line for line in lines if " conv " in line]
    assert conv.startswith("quantize")
    assert "QLinearConv" in conv
    assert seen.err == ""
    assert sorted(folder.iterdir()) == before


def test_a_narrow_terminal_folds_no_names(folder: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    assert main(PLAN) == 0
    lines = [Text.from_ansi(line).plain for line in capsys.readouterr().out.splitlines()]
    assert "keep      Tanh  tanh" in [line.rstrip() for line in lines]
    assert max(map(len, lines)) <= 60


def test_json_is_a_plan_that_can_be_read_back(folder: Path, capsys: Output) -> None:
    assert main([*PLAN, "--json"]) == 0
    plan = plan_from_json(capsys.readouterr().out)
    assert [decision.node for decision in plan.decisions] == NODES


def test_explain_tells_decision_reason_rule_edges_schemes_and_scales(folder: Path, capsys: Output) -> None:
    assert main([*PLAN, "--explain", "conv", "--keep", "Gemm"]) == 0
    text = capsys.readouterr().out
    for fact in ("quantize", "integer-kernel", "the defaults", "QLinearConv", "input 0", "image", "input 1", "w0"):
        assert fact in text
    for fact in ("uint8 asymmetric per-tensor", "int8 symmetric per-channel", "zero point", "bias", "scale of 'image'"):
        assert fact in text
    assert main([*PLAN, "--explain", "gemm", "--keep", "Gemm"]) == 0
    text = capsys.readouterr().out
    for fact in ("keep", "rule 0", "Gemm, in float"):
        assert fact in text


def test_explain_as_json_holds_the_scale(folder: Path, capsys: Output) -> None:
    assert main([*PLAN, "--explain", "conv", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    (image,) = [edge for edge in printed["edges"] if edge["tensor"] == "image"]
    assert image["side"] == "input"
    assert image["params"]["scale"] > 0


def test_inspect_tells_what_is_inside(folder: Path, capsys: Output) -> None:
    before = sorted(folder.iterdir())
    assert main(["inspect", "net.onnx"]) == 0
    text = capsys.readouterr().out
    for fact in ("tests", "ai.onnx 17", "image: float [N, 3, 16, 16]", "scores: float [N, 10]", "Conv", "could run"):
        assert fact in text
    assert main(["inspect", "net.onnx", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["operators"]["Tanh"] == 1
    assert found["opsets"] == {"": 17}
    assert sorted(folder.iterdir()) == before


def test_the_float_type_and_its_reasons_are_counted_and_explained(folder: Path, capsys: Output) -> None:
    assert main([*PLAN, "--target", "cuda", "--format", "dynamic", "--float-type", "float16"]) == 0
    assert "float type" in capsys.readouterr().out
    assert main([*PLAN, "--float-type", "float16", "--explain", "tanh"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("float type")]
    assert "float32: target cpu" in line
    assert "lists no kernel for Tanh in float16" in line
    assert main([*PLAN, "--float-type", "float61"]) != 0
    assert "did you mean 'float16'" in capsys.readouterr().err
