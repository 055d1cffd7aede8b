"""What is planned for cpu-avx2 computes there what it computes with VNNI; what is planned for VNNI does not.

Both run on the processor that valgrind emulates, on inputs at the end of their range.
"""

import shutil
import subprocess

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxq.graph.text import model_from_text
from onnxq.runtime.saturation import adds_pairs, emulated_without_vnni
from onnxq.runtime.session import run_model
from onnxq.targets.processor import this_processor
from tests.quantizing import quantize_model, text

CASES = {
    "conv": ("Conv <pads = [1, 1, 1, 1]> (x, w)", (2, 8, 6, 6), {"w": (12, 8, 3, 3)}),
    "conv-odd": ("Conv <strides = [2, 2]> (x, w)", (2, 5, 7, 7), {"w": (7, 5, 3, 3)}),
    "conv-1x1": ("Conv (x, w)", (2, 7, 6, 6), {"w": (16, 7, 1, 1)}),
    "conv-grouped": ("Conv <group = 2, dilations = [2, 2]> (x, w)", (2, 6, 7, 7), {"w": (8, 3, 3, 3)}),
    "conv-multiplied": ("Conv <group = 4> (x, w)", (2, 4, 6, 6), {"w": (8, 1, 3, 3)}),
    "conv-1d": ("Conv (x, w)", (2, 5, 9), {"w": (6, 5, 3)}),
    "matmul": ("MatMul (x, w)", (5, 63), {"w": (63, 16)}),
    "matmul-stack": ("MatMul (x, w)", (3, 5, 33), {"w": (3, 33, 16)}),
    "gemm": ("Gemm <transB = 1> (x, w)", (5, 65), {"w": (17, 65)}),
    "lstm": ("LSTM <hidden_size = 16> (x, w, r)", (6, 1, 20), {"w": (1, 64, 20), "r": (1, 64, 16)}),
}
FORMATS = [(name, form) for name in CASES if name != "lstm" for form in ("qdq", "qoperator")]
FORMATS += [(name, "dynamic") for name in ("matmul", "matmul-stack", "gemm", "lstm")]

RUN = """
import pathlib, sys
import numpy as np
from onnxq.runtime.session import run_model
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.onnx")):
    feeds = dict(np.load(path.with_suffix(".npz")))
    np.save(path.with_suffix(".npy"), next(iter(run_model(path, feeds, optimize=True).values())))
"""


def quantized(name, form, target):
    body, shape, weights = CASES[name]
    listed = ", ".join(f"float{list(extents)} {key}" for key, extents in weights.items())
    model = model_from_text(text(f"y = {body}", f"float{list(shape)} x", "float[] y", listed))
    rng = np.random.default_rng(5)
    for key, extents in weights.items():  # mostly of one sign, so that sums are large
        values = rng.uniform(-0.2, 1.0, extents).astype(np.float32) * (0.1 if name == "lstm" else 1.0)
        model.graph.initializers[key].const_value = ir.tensor(values.astype(np.float32), name=key)
    feeds = {"x": np.where(rng.random(shape) < 0.8, 1.0, 0.0).astype(np.float32)}
    done = quantize_model(model, feeds, target=target, format=form, placement="everywhere", calibrator="minmax")
    return done.model, feeds


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(name, form, target) -> outputs here and without VNNI."""
    folder = tmp_path_factory.mktemp("models")
    here = {}
    for name, form in FORMATS:
        for target in ("cpu-avx2", "cpu-vnni"):
            model, feeds = quantized(name, form, target)
            path = folder / f"{name}.{form}.{target}.onnx"
            onnx.save(ir.to_proto(model), path)
            np.savez(path.with_suffix(".npz"), **feeds)
            here[name, form, target] = path, next(iter(run_model(model, feeds, optimize=True).values()))
    if adds_pairs():
        pytest.skip("this processor has no VNNI: nothing to compare with")
    command = emulated_without_vnni("json.tool")
    assert command is not None
    subprocess.run([*command[: command.index("-m")], "-c", RUN, str(folder)], check=True)
    return {key: (output, np.load(path.with_suffix(".npy"))) for key, (path, output) in here.items()}


@pytest.mark.timeout(600)
@pytest.mark.skipif(
    shutil.which("valgrind") is None or this_processor().architecture != "x86-64",
    reason="valgrind, which has AVX2 and no VNNI, is not installed",
)
@pytest.mark.parametrize(("name", "form"), FORMATS)
def test_the_same_as_with_vnni(served, name, form):
    exact, emulated = served[name, form, "cpu-avx2"]
    np.testing.assert_allclose(emulated, exact, rtol=1e-4, atol=1e-4)
    exact, saturated = served[name, form, "cpu-vnni"]
    assert np.abs(saturated - exact).max() > 0.02 * np.abs(exact).max(), "the inputs saturate nothing"
