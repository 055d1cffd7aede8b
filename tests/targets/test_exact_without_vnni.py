"""What is planned for cpu-avx2 is exact without VNNI, what is planned for VNNI is not; inputs are as large as can be.

Where this processor has VNNI, exact is what it computes, and the other is emulated; where it has none, exact is the
simulation of the plan in float.
"""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxq.graph.text import model_from_text
from onnxq.runtime.saturation import adds_pairs
from onnxq.runtime.session import run_model
from onnxq.stages.rewrite import simulate
from tests.support.quantizing import quantize_model, text

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
    return quantize_model(model, feeds, target=target, format=form, placement="everywhere", calibrator="minmax")


@pytest.fixture(scope="module")
def served(run_without_vnni, tmp_path_factory):
    """(name, form, target) -> what is exact, what is computed without VNNI, and how far off rounding may bring it."""
    folder = tmp_path_factory.mktemp("models")
    exact = {}
    for name, form in FORMATS:
        for target in ("cpu-avx2", "cpu-vnni"):
            done = quantized(name, form, target)
            path = folder / f"{name}.{form}.{target}.onnx"
            onnx.save(ir.to_proto(done.model), path)
            np.savez(path.with_suffix(".npz"), **done.feeds)
            step, run = 1e-4, done.model
            if adds_pairs():
                run = simulate(done.float_model, done.plan)
                rounded = done.plan.tensors.get("y")
                step = 1e-3 if rounded is None else 1.001 * float(rounded.params.scale)
            exact[name, form, target] = path, next(iter(run_model(run, done.feeds, optimize=True).values())), step
    run_without_vnni(RUN, str(folder))
    return {key: (right, np.load(path.with_suffix(".npy")), step) for key, (path, right, step) in exact.items()}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "form"), FORMATS)
def test_exact_as_planned_for_it_and_not_as_planned_for_vnni(served, name, form):
    exact, computed, step = served[name, form, "cpu-avx2"]
    np.testing.assert_allclose(computed, exact, rtol=1e-4, atol=step)
    exact, saturated, _ = served[name, form, "cpu-vnni"]
    assert np.abs(saturated - exact).max() > 0.02 * np.abs(exact).max(), "the inputs saturate nothing"
