"""`onnxq quantize`: what it writes, what it prints where, and that a recipe repeats it byte for byte."""

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import yaml
from onnxq.cli import main

DIGITS = Path(__file__).parents[2] / "models" / "digits"
QUICK = ["quantize", "net.onnx", "--calibration", "data.npz", "--no-check"]

Output = pytest.CaptureFixture[str]


def test_digits_are_quantized_by_one_line(tmp_path: Path, capsys: Output) -> None:
    """The README's example: accuracy, error, size and latency before and after, on stdout; two files written."""
    output = tmp_path / "model.int8.onnx"
    words = ["quantize", str(DIGITS / "model.onnx"), "--format", "qdq"]
    assert main([*words, "--calibration", str(DIGITS / "calibration.npz"), "-o", str(output)]) == 0
    seen = capsys.readouterr()
    for word in ("accuracy", "99.", "dB", "latency", "size", "smaller", str(output)):
        assert word in seen.out
    assert seen.err == ""
    onnx.checker.check_model(onnx.load(output), full_check=True)
    assert output.stat().st_size < 0.35 * (DIGITS / "model.onnx").stat().st_size
    report = json.loads((tmp_path / "model.int8.report.json").read_text())
    assert report["verification"]["metric"]["quantized_value"] > 0.985
    assert len(report["plan"]["decisions"]) == 26


def test_output_goes_beside_the_model_unless_named(folder: Path) -> None:
    assert main(QUICK) == 0
    assert {path.name for path in folder.iterdir()} >= {"net.int8.onnx", "net.int8.report.json"}


def test_json_is_the_report_and_alone_on_stdout(folder: Path, capsys: Output) -> None:
    assert main([*QUICK, "--json"]) == 0
    seen = capsys.readouterr()
    assert json.loads(seen.out) == json.loads((folder / "net.int8.report.json").read_text())
    assert seen.err == ""


def test_quiet_prints_warnings_only(folder: Path, capsys: Output) -> None:
    assert main(["quantize", "net.onnx", "--no-check", "--quiet"]) == 0
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith("warning: no calibration data")


def test_calibrating_on_made_up_inputs_is_warned_of_in_terminal_and_report(folder: Path, capsys: Output) -> None:
    assert main(["quantize", "net.onnx", "--no-check"]) == 0
    assert "made-up inputs" in " ".join(capsys.readouterr().out.split())
    assert any(
        "made-up inputs" in text for text in json.loads((folder / "net.int8.report.json").read_text())["warnings"]
    )


def test_existing_files_are_kept_unless_forced(folder: Path, capsys: Output) -> None:
    (folder / "net.int8.onnx").write_bytes(b"precious")
    assert main(QUICK) == 3
    assert "'net.int8.onnx' exists already" in capsys.readouterr().err
    assert (folder / "net.int8.onnx").read_bytes() == b"precious"
    assert main([*QUICK, "--force"]) == 0
    assert (folder / "net.int8.onnx").read_bytes() != b"precious"


def test_a_dumped_recipe_is_complete_and_repeats_the_same_bytes(folder: Path, capsys: Output) -> None:
    options = [
        "--calibrator",
        "percentile:percentile=99.5",
        "--keep",
        "gemm",
        "--weights",
        "per-tensor",
        "--samples",
        "6",
    ]
    assert main([*QUICK, *options, "-o", "first.onnx"]) == 0
    capsys.readouterr()
    assert main(["quantize", "net.onnx", "--calibration", "data.npz", *options, "--dump-recipe"]) == 0
    text = capsys.readouterr().out
    (folder / "recipe.yaml").write_text(text)
    assert main(["quantize", "net.onnx", "--recipe", "recipe.yaml", "--no-check", "-o", "second.onnx"]) == 0
    first, second = ((folder / f"{name}.onnx").read_bytes() for name in ("first", "second"))
    assert first == second
    recipe = yaml.safe_load(text)
    assert recipe["calibrator"] == {"name": "percentile", "options": {"percentile": 99.5}}
    assert {"format": "qdq", "target": "cpu", "samples": 6}.items() <= recipe.items()
    capsys.readouterr()
    assert main(["quantize", "net.onnx", "--recipe", "recipe.yaml", "--dump-recipe"]) == 0
    assert capsys.readouterr().out == text


def test_a_report_serves_as_recipe(folder: Path) -> None:
    assert main([*QUICK, "--keep", "Gemm", "-o", "first.onnx"]) == 0
    assert main(["quantize", "net.onnx", "--recipe", "first.report.json", "--no-check", "-o", "second.onnx"]) == 0
    first, second = ((folder / f"{name}.onnx").read_bytes() for name in ("first", "second"))
    assert first == second


def test_what_the_guard_decided_is_repeated_without_measuring(folder: Path) -> None:
    """Whatever the clocks said the first time, the report holds it: the same bytes, and nothing is timed."""
    assert main(["quantize", "net.onnx", "--calibration", "data.npz", "--min-sqnr", "30", "-o", "first.onnx"]) == 0
    assert main(["quantize", "net.onnx", "--recipe", "first.report.json", "-o", "second.onnx"]) == 0
    first, second = ((folder / f"{name}.onnx").read_bytes() for name in ("first", "second"))
    assert first == second
    reports = [json.loads((folder / f"{name}.report.json").read_text()) for name in ("first", "second")]
    assert reports[0]["guard"]["seconds"] > 0
    assert reports[1]["guard"] is None
    assert reports[0]["recipe"] == reports[1]["recipe"]


def test_options_given_win_over_the_recipe_file(folder: Path, capsys: Output) -> None:
    (folder / "recipe.yaml").write_text("samples: 3\nthreads: 2\nrules: [{match: {op: Gemm}, keep: float}]\n")
    assert (
        main(["quantize", "net.onnx", "--recipe", "recipe.yaml", "--samples", "5", "--keep", "c*", "--dump-recipe"])
        == 0
    )
    recipe = yaml.safe_load(capsys.readouterr().out)
    assert (recipe["samples"], recipe["threads"]) == (5, 2)
    assert [rule["match"] for rule in recipe["rules"]] == [{"op": "Gemm"}, {"name": "c*"}]


def test_the_model_after_a_pass_is_dumped(folder: Path) -> None:
    assert main([*QUICK, "--verify-each", "--dump-after", "fold-constants"]) == 0
    assert {node.op_type for node in onnx.load(folder / "net.after-fold-constants.onnx").graph.node} >= {"Conv", "Gemm"}
    for name in ("emit-qdq", "shield-float", "drop-inferred"):
        assert main([*QUICK, "--force", "--dump-after", name]) == 0
        dumped = {node.op_type for node in onnx.load(folder / f"net.after-{name}.onnx").graph.node}
        assert "DequantizeLinear" in dumped


def test_worse_than_allowed_is_code_1_and_writes_nothing(folder: Path, capsys: Output) -> None:
    before = sorted(folder.iterdir())
    assert main([*QUICK[:-1], "--no-guard", "--min-sqnr", "200", "--placement", "everywhere"]) == 1
    seen = capsys.readouterr()
    assert "below the 200 dB asked for" in seen.err
    assert "optimizer off" in seen.out  # the table tells where it was lost
    assert sorted(folder.iterdir()) == before


def test_a_terminal_shows_progress_on_stderr_and_leaves_it_clean(folder: Path) -> None:
    """Under a pseudo-terminal the bar counts the samples and is gone at the end; stdout stays untouched by it."""
    leader, follower = os.openpty()
    with (folder / "out.json").open("w") as out:
        process = subprocess.Popen([sys.executable, "-m", "onnxq", *QUICK, "--json"], stdout=out, stderr=follower)
    os.close(follower)
    drawn = b""
    while chunk := _read(leader):
        drawn += chunk
    os.close(leader)
    assert process.wait() == 0
    assert json.loads((folder / "out.json").read_text())["calibration"]["samples"] == 8
    assert b"calibrate" in drawn
    assert b"8/8" in drawn
    assert b"/s" in drawn
    assert drawn.endswith((b"\x1b[2K", b"\x1b[?25h"))  # the line is erased, the cursor is back


def _read(handle: int) -> bytes:
    try:
        return os.read(handle, 65536)
    except OSError:  # the other side is closed
        return b""
