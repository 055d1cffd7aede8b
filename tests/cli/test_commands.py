"""The commands as a whole: what they are called, what they load, what they say to a misspelt word."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from onnxq.cli import main
from onnxq.cli.recipe_options import recipe_options
from onnxq.types.recipe import Recipe

COMMANDS = ["quantize", "plan", "inspect", "passes", "targets"]
HEAVY = ["onnxruntime", "onnx", "onnx_ir", "onnxscript", "numpy", "scipy", "ml_dtypes", "pydantic", "yaml"]

Output = pytest.CaptureFixture[str]


@pytest.mark.parametrize("program", ["import onnxq", "from onnxq.cli import main; assert main(['--help']) == 0"])
def test_start_up_loads_no_heavy_library(program: str) -> None:
    """The package and the help are there at once because none of these is imported until there is work for it."""
    check = f"{program}\nimport sys\nprint(sorted({HEAVY!r} & sys.modules.keys()), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_help_lists_the_commands_in_the_order_of_use(capsys: Output) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    places = [text.index(f"│ {name} ") for name in COMMANDS]
    assert places == sorted(places)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: Output) -> None:
    assert main([name, "--help"]) == 0
    assert f"Usage: onnxq {name}" in capsys.readouterr().out


def test_the_module_runs_like_the_program() -> None:
    done = subprocess.run([sys.executable, "-m", "onnxq", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("onnxq 0.")


def test_options_are_the_fields_of_the_recipe() -> None:
    """`recipe` names a file, and `keep` is short for a rule; all else corresponds one to one."""
    assert recipe_options().keys() - {"recipe", "keep"} == Recipe.model_fields.keys() - {"rules"}


def test_nothing_asked_for_shows_the_help(capsys: Output) -> None:
    assert main([]) == 2
    seen = capsys.readouterr()
    assert "Usage: onnxq" in seen.out
    assert seen.err == ""


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["quantise", "model.onnx"], "Did you mean 'quantize'?"),
        (["quantize", "model.onnx", "--calibraton", "x"], "--calibration"),
        (["plan", "model.onnx", "--explan", "x"], "--explain"),
        (["targets", "cpuu"], "did you mean 'cpu'?"),
        (["inspect"], "Missing argument 'MODEL'"),
        (["quantize", "model.onnx", "--samples", "ten"], "'--samples'"),
    ],
)
def test_a_misspelt_word_is_a_usage_error_with_the_right_one(words: list[str], hint: str, capsys: Output) -> None:
    assert main(words) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith("error: ")
    assert hint in seen.err


def test_passes_lists_one_line_each(capsys: Output) -> None:
    assert main(["passes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    fold = [line for line in lines if line.startswith("fuse-bn ")]
    assert len(fold) == 1
    assert "yes" in fold[0]
    assert "Fold BatchNormalization" in fold[0]
    assert main(["passes", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(lines) - 1


def test_targets_lists_them_and_the_rows_of_one(capsys: Output) -> None:
    assert main(["targets"]) == 0
    assert "\ncpu " in capsys.readouterr().out
    assert main(["targets", "cpu"]) == 0
    rows = [re.split(r"  +", line) for line in capsys.readouterr().out.splitlines()]
    assert ["operator", "runs as", "formats"] in [row[:3] for row in rows]
    assert ["Conv", "QLinearConv", "qdq"] in [row[:3] for row in rows]
    assert main(["targets", "cpu", "--json"]) == 0
    (target,) = json.loads(capsys.readouterr().out)
    assert target["provider"] == "CPUExecutionProvider"
    assert {"op": "Conv", "kernel": "QLinearConv"}.items() <= target["rows"][0].items()


def test_an_unexpected_fault_is_one_line_to_report(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    def broken() -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("onnxq.passes.listing.list_passes", broken)
    monkeypatch.delenv("ONNXQ_DEBUG", raising=False)
    assert main(["passes"]) == 70
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: internal error: ZeroDivisionError: division by zero;")
    assert "ONNXQ_DEBUG=1" in line
    monkeypatch.setenv("ONNXQ_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["passes"])


def test_running_out_of_memory_says_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    def hungry() -> None:
        raise MemoryError

    monkeypatch.setattr("onnxq.passes.listing.list_passes", hungry)
    assert main(["passes"]) == 3
    assert "--batch-size" in capsys.readouterr().err


def test_output_that_cannot_be_written_is_noticed() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123 - a device
        command = [sys.executable, "-m", "onnxq", "passes"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("error: standard output cannot be written: No space left on device;")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_goes_away_ends_the_program_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "onnxq", "targets", "cpu", "--json"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_name_that_the_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "onnxq", "inspect", os.fsencode(tmp_path / "mod\udcffl.onnx")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 3
    assert "mod\\udcffl.onnx' does not exist" in done.stderr
    assert done.stderr.count("\n") == 1
