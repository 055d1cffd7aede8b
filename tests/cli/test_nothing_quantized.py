"""What the command line says and returns where nothing is quantized: refused, gained nothing, quantized already."""

import re
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnxq.cli import main

CONV = """<ir_version: 9, opset_import: ["" : 17]>
g (float[1,4,8,8] x) => (float[1,8,6,6] y) { [first] y = Conv (x, w) }"""
DOUBLE = """<ir_version: 9, opset_import: ["" : 17]>
g (double[4,8] x) => (double[4,8] y) { [first] h = MatMul (x, w) [second] y = MatMul (h, w) }"""


def model(text: str, weight: np.ndarray, folder: Path) -> str:
    made = onnx.parser.parse_model(text)
    made.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(made, folder / "net.onnx")
    return str(folder / "net.onnx")


def conv(folder: Path) -> str:
    return model(CONV, np.random.default_rng(0).standard_normal((8, 4, 3, 3)).astype(np.float32), folder)


def test_nothing_can_be_quantized_is_code_1_and_says_what_it_is(tmp_path, capsys):
    path = model(DOUBLE, np.eye(8), tmp_path)
    assert main(["quantize", path]) == 1
    seen = capsys.readouterr()
    assert "type 2 (MatMul): 'first': double tensor 'x': only float32 is quantized" in seen.err
    assert "not written" in seen.out
    assert not re.search(r"smaller|larger", seen.out)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net.onnx"]


def test_nothing_gained_is_code_0_and_the_float_model(tmp_path, capsys):
    """As it is where the guard finds that nothing is gained."""
    path = conv(tmp_path)
    assert main(["quantize", path, "--format", "dynamic"]) == 0
    seen = capsys.readouterr()
    assert "nothing is gained by quantizing, so the result is the float model" in seen.out
    assert "'first': ConvInteger takes" in " ".join(seen.out.split())
    assert "in float: dynamic" in seen.out
    (node,), (weight,) = (
        getattr(onnx.load(tmp_path / "net.int8.onnx").graph, part) for part in ("node", "initializer")
    )
    assert node.op_type == "Conv"
    np.testing.assert_array_equal(
        onnx.numpy_helper.to_array(weight), onnx.numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    )


def test_a_second_time_says_that_it_is_quantized_already(tmp_path, capsys):
    options = ["--no-guard", "--no-check"]
    assert main(["quantize", conv(tmp_path), *options]) == 0
    assert main(["quantize", str(tmp_path / "net.int8.onnx"), *options, "-o", str(tmp_path / "again.onnx")]) == 0
    assert "the model is quantized already" in capsys.readouterr().out
    assert (tmp_path / "net.int8.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()


def test_what_is_worse_than_allowed_is_not_called_quantized(tmp_path, capsys):
    assert main(["quantize", conv(tmp_path), "--no-guard", "--min-sqnr", "200"]) == 1
    seen = capsys.readouterr()
    assert "net.onnx not written: qdq" in seen.out
    assert "as served" in seen.out


@pytest.mark.parametrize(("value", "code"), [(np.inf, "infinite"), (-np.inf, "mask")])
def test_an_infinite_input_is_named_with_what_to_do(tmp_path, capsys, value, code):
    """An attention mask may hold minus infinity, so that this is no error by itself; NaN is refused at once."""
    data = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    data[0, 0, 0, 0] = value
    np.savez(tmp_path / "data.npz", x=data)
    assert main(["quantize", conv(tmp_path), "--calibration", str(tmp_path / "data.npz")]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert f"{code} 1 (Conv): 'first': input 'x' held 1 infinite value of 256 during calibration" in error
    assert "clean the data" in error
