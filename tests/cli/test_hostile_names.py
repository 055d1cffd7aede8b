"""Names out of a model are shown, and steer no terminal."""

from pathlib import Path

import onnx
import pytest
from onnxq.cli import main

EVIL = "../\x1b[31mred\nline[/red]\x07\u202e"


@pytest.mark.parametrize("command", ["plan", "inspect", "doctor", "quantize"])
def test_names_that_steer_a_terminal_are_written_out(
    folder: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(folder / "net.onnx")
    model.producer_name = EVIL
    for index, node in enumerate(model.graph.node):
        node.name = f"{EVIL}{index}"
        node.input[:] = [EVIL if name == "t" else name for name in node.input]
        node.output[:] = [EVIL if name == "t" else name for name in node.output]
    onnx.save(model, folder / "net.onnx")
    before = set(folder.rglob("*")) | set(folder.parent.iterdir())
    options = {
        "plan": ["--calibration", "data.npz"],
        "quantize": ["--calibration", "data.npz", "--placement", "everywhere", "-o", "out.onnx", "--no-check"],
    }
    assert main([command, "net.onnx", *options.get(command, [])]) == 0
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert not set(said) & {"\x1b", "\x07", "\u202e"}
    if command in ("plan", "inspect"):
        assert r"\x1b[31mred" in said
    made = (set(folder.rglob("*")) | set(folder.parent.iterdir())) - before
    assert {path.name for path in made} <= {"out.onnx", "out.report.json"}
