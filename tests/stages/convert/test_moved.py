"""Weights whose codes are moved between DequantizeLinear and the product: Reshape, Transpose, Squeeze, Unsqueeze.

The weight that MatMulNBits then represents is, bit for bit, what the operators of the standard made of the codes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxq
import pytest
from onnx import numpy_helper
from onnxq.runtime.session import run_model
from tests.support.converting import ops

ROWS, COLUMNS = 24, 96  # outputs and inputs
RNG = np.random.default_rng(0)
X = RNG.standard_normal((5, COLUMNS)).astype(np.float32)


def model(body: str, arrays: dict[str, tuple[str, npt.NDArray[Any]]], *, opset: int = 21) -> onnx.ModelProto:
    """Return a model of x [5, 96] and y of `body`, with constants by name: their type and values."""
    inputs = f"float[5,{COLUMNS}] x" + (", int64[2] shape" if "shape)" in body else "")
    found = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}]>\nnet ({inputs}) => (float[5,{ROWS}] y) {{ {body} }}'
    )
    for name, (kind, array) in arrays.items():
        data_type = getattr(onnx.TensorProto, kind.upper())
        found.graph.initializer.append(onnx.helper.make_tensor(name, data_type, array.shape, array.reshape(-1)))
    return found


def ints(*shape: int, low: int = -8, high: int = 8) -> npt.NDArray[np.int64]:
    return RNG.integers(low, high, shape)


def scales(*shape: int) -> npt.NDArray[np.float32]:
    return RNG.uniform(0.01, 0.1, shape).astype(np.float32)


def shape(*extents: int) -> tuple[str, npt.NDArray[np.int64]]:
    return "int64", np.array(extents)


Case = tuple[onnx.ModelProto, npt.NDArray[np.float32]]


def rows_of_blocks() -> Case:
    """Codes [N, K/B, B] in blocks along the last axis, as exporters of GPTQ and AWQ models write them."""
    codes, scale = ints(ROWS, 6, 16), scales(ROWS, 6, 1)
    body = """d = DequantizeLinear <axis = 2, block_size = 16> (c, s) r = Reshape (d, k)
              t = Transpose <perm = [1, 0]> (r) y = MatMul (x, t)"""
    found = model(body, {"c": ("int4", codes), "s": ("float", scale), "k": shape(ROWS, COLUMNS)})
    return found, (codes.astype(np.float32) * scale).reshape(ROWS, COLUMNS)


def blocks_as_channels() -> Case:
    """Codes [N K/B, B] with a scale and zero point for each row: blocks before opset 21."""
    codes, scale, zero = ints(ROWS * 3, 32, low=0, high=256), scales(ROWS * 3), ints(ROWS * 3, low=0, high=256)
    body = """d = DequantizeLinear <axis = 0> (c, s, z) r = Reshape (d, k) t = Transpose <perm = [1, 0]> (r)
              y = MatMul (x, t)"""
    arrays = {"c": ("uint8", codes), "s": ("float", scale), "z": ("uint8", zero), "k": shape(ROWS, COLUMNS)}
    values = (codes - zero[:, None]).astype(np.float32) * scale[:, None]
    return model(body, arrays, opset=17), values.reshape(ROWS, COLUMNS)


def squeezed() -> Case:
    codes, scale = ints(1, COLUMNS, ROWS, low=0, high=16), scales(1, 3, ROWS)
    body = "d = DequantizeLinear <axis = 1, block_size = 32> (c, s) r = Squeeze (d, k) y = MatMul (x, r)"
    found = model(body, {"c": ("uint4", codes), "s": ("float", scale), "k": shape(0)})
    return found, (codes[0].astype(np.float32) * scale[0].repeat(32, 0)).T


def transposed() -> Case:
    codes, scale = ints(ROWS, COLUMNS), scales(ROWS, 3)
    body = """d = DequantizeLinear <axis = 1, block_size = 32> (c, s) t = Transpose <perm = [1, 0]> (d)
              y = MatMul (x, t)"""
    found = model(body, {"c": ("int4", codes), "s": ("float", scale)})
    return found, codes.astype(np.float32) * scale.repeat(32, 1)


def of_gemm() -> Case:
    codes, scale = ints(1, ROWS, COLUMNS, low=-128, high=128), scales(1, ROWS, 6)
    body = """d = DequantizeLinear <axis = 2, block_size = 16> (c, s) r = Reshape (d, k)
              y = Gemm <transB = 1> (x, r)"""
    found = model(body, {"c": ("int8", codes), "s": ("float", scale), "k": shape(ROWS, COLUMNS)})
    return found, codes[0].astype(np.float32) * scale[0].repeat(16, 1)


def before_they_are_dequantized() -> Case:
    codes, scale = ints(6, 16, ROWS, low=-128, high=128), scales(6, ROWS)
    body = """r = Reshape (c, k) d = DequantizeLinear <axis = 0, block_size = 16> (r, s) y = MatMul (x, d)"""
    found = model(body, {"c": ("int8", codes), "s": ("float", scale), "k": shape(COLUMNS, ROWS)})
    return found, (codes.astype(np.float32) * scale[:, None]).reshape(COLUMNS, ROWS).T


CASES = [rows_of_blocks, blocks_as_channels, squeezed, transposed, of_gemm, before_they_are_dequantized]


def multiplied(found: onnx.ModelProto) -> npt.NDArray[np.float32]:
    """Return the weight [N, K] that a MatMulNBits multiplies by, as its specification says."""
    (node,) = (node for node in found.graph.node if node.op_type == "MatMulNBits")
    given = {attribute.name: attribute.i for attribute in node.attribute}
    arrays = [numpy_helper.to_array(t) for name in node.input for t in found.graph.initializer if t.name == name]
    rows, bits, blocks = given["N"], given["bits"], -(-given["K"] // given["block_size"])

    def apart(bytes_: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        places = [(bytes_.astype(np.int32) >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
        return np.stack(places, -1).reshape(rows, -1)

    codes = apart(arrays[0].reshape(rows, -1)).reshape(rows, blocks, -1)
    zeros = (
        apart(arrays[2].reshape(rows, -1))[:, :blocks] if len(arrays) > 2 else np.full((rows, blocks), 1 << bits - 1)
    )
    values = (codes - zeros[:, :, None]).astype(np.float32) * arrays[1].reshape(rows, blocks, 1)
    return values.reshape(rows, -1)[:, : given["K"]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_moved_codes_become_those_of_matmulnbits(case: Any) -> None:
    came, weight = case()
    report = onnxq.quantize(came, format="weight-only", check=False)
    onnx.checker.check_model(report.model, full_check=True)
    assert ops(report.model) == Counter({"MatMulNBits": 1})
    np.testing.assert_array_equal(multiplied(report.model), weight)
    assert "imported" in {entry.reason.code for entry in report.plan.decisions}
    exact = X.astype(np.float64) @ weight.T
    off, served = (run_model(report.model, {"x": X}, optimize=optimize)["y"] for optimize in (False, True))
    np.testing.assert_array_equal(off, served)
    assert np.abs(served - exact).max() < 0.02 * np.abs(exact).max()  # the kernel rounds what it multiplies to 8 bits
    assert np.abs(run_model(came, {"x": X}, optimize=False)["y"] - exact).max() < 1e-4
    again = onnxq.quantize(report.model, format="weight-only", check=False).model
    assert again.SerializeToString(deterministic=True) == report.model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_and_back_in_operators_of_the_standard(case: Any) -> None:
    came, weight = case()
    contrib = onnxq.quantize(came, format="weight-only", check=False).model
    back = onnxq.quantize(contrib, format="weight-only", portable=True, check=False).model
    assert ops(back)["DequantizeLinear"] == 1
    assert not any(node.domain for node in back.graph.node)
    exact = X.astype(np.float64) @ weight.T
    assert np.abs(run_model(back, {"x": X}, optimize=False)["y"] - exact).max() < 1e-4


CODES = {"c": ("int4", ints(ROWS, 6, 16)), "s": ("float", scales(ROWS, 6, 1))}
DEQUANTIZE = "d = DequantizeLinear <axis = 2, block_size = 16> (c, s)"


@pytest.mark.parametrize(
    ("body", "arrays", "reason"),
    [
        (
            f"{DEQUANTIZE} r = Reshape (d, shape) t = Transpose <perm = [1, 0]> (r) y = MatMul (x, t)",
            {},
            "gives its codes a shape that is not known before the model runs",
        ),
        (
            f"{DEQUANTIZE} m = Mul (d, f) r = Reshape (m, k) t = Transpose <perm = [1, 0]> (r) y = MatMul (x, t)",
            {"f": ("float", scales(1, 1, 16)), "k": shape(ROWS, COLUMNS)},
            "(Mul) stands between its codes and it",
        ),
        (
            f"{DEQUANTIZE} r = Reshape (d, k) y = MatMul (x, r)",
            {"k": shape(COLUMNS, ROWS)},
            "mixes codes of different scales",
        ),
        (
            f"{DEQUANTIZE} t = Transpose <perm = [1, 2, 0]> (d) r = Reshape (t, k) u = Unsqueeze (r, z) "
            "v = MatMul (x, u) y = Squeeze (v, z)",
            {"k": shape(COLUMNS, ROWS), "z": shape(0)},
            "its weight is not a single matrix",
        ),
        (
            f"{DEQUANTIZE} t = Transpose <perm = [2, 1, 0]> (d) r = Reshape (t, k) y = MatMul (x, r)",
            {"k": shape(COLUMNS, ROWS)},
            "no kernel for blocks of 1",
        ),
    ],
    ids=["computed", "scaled", "mixed", "stack", "single"],
)
def test_what_stands_in_the_way_is_said(body: str, arrays: dict[str, Any], reason: str) -> None:
    came = model(body, CODES | arrays)
    report = onnxq.quantize(came, format="weight-only", check=False)
    (decision,) = (entry for entry in report.plan.decisions if entry.op == "MatMul")
    assert decision.reason.code == "already-quantized"
    assert reason in decision.reason.text
    assert any(reason in warning for warning in report.warnings)
    assert [node.op_type for node in report.model.graph.node] == [node.op_type for node in came.graph.node]
    assert {t.name: numpy_helper.to_array(t).tobytes() for t in report.model.graph.initializer} == {
        t.name: numpy_helper.to_array(t).tobytes() for t in came.graph.initializer
    }
