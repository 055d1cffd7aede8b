"""`onnxq bench` and `onnxq compare`."""

import json
from pathlib import Path

import pytest
from onnxq.cli import main

Output = pytest.CaptureFixture[str]


def test_bench_prints_a_table_and_draws(folder: Path, capsys: Output) -> None:
    (folder / "same.onnx").write_bytes((folder / "net.onnx").read_bytes())
    words = ["bench", "net.onnx", "same.onnx", "--batch", "2", "--seconds", "0", "--picture", "p.svg"]
    assert main(words) == 0
    seen = capsys.readouterr().out
    for word in ("batch 2", "same.onnx", "exact", "made-up inputs", "[2, 3, 16, 16]", "drawn in p.svg"):
        assert word in seen
    assert (folder / "p.svg").read_text().startswith("<?xml")


def test_bench_prints_json_alone(folder: Path, capsys: Output) -> None:
    assert main(["bench", "net.onnx", "--threads", "1,2", "--seconds", "0", "--data", "data.npz", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["setting"]["threads"] for row in found["rows"]] == [1, 2]


def test_compare_tells_outputs_and_tensors(folder: Path, capsys: Output) -> None:
    assert main(["quantize", "net.onnx", "--calibration", "data.npz", "--no-check", "--quiet"]) == 0
    words = ["compare", "net.onnx", "net.int8.onnx", "--data", "data.npz", "--worst", "1", "--picture", "p.png"]
    assert main(words) == 0
    seen = capsys.readouterr().out
    for word in ("scores", "Worst of", "dB", "8 samples", "drawn in p.png"):
        assert word in seen
    assert (folder / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["bench", "net.onnx", "--threads", "one"], 2, "whole numbers"),
        (["bench", "net.onnx", "--shape", "N"], 2, "AXIS=N"),
        (["bench", "none.onnx"], 3, "none.onnx"),
        (["bench", "net.onnx", "--picture", "p.jpeg"], 3, ".png, .svg or .pdf"),
        (["compare", "net.onnx", "none.onnx"], 3, "none.onnx"),
    ],
)
def test_bad_input_is_one_message(folder: Path, capsys: Output, words: list[str], code: int, message: str) -> None:
    assert main(words) == code
    seen = capsys.readouterr()
    assert message in seen.err
    assert "Traceback" not in seen.err
