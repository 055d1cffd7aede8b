"""Models that quantize at run time, from onnxq and from onnxruntime, and what their weights represent."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxq
from onnx import numpy_helper
from onnxq.runtime.saturation import adds_pairs
from onnxq.runtime.session import run_model
from tests.support.converting import ops, proto, written

NET = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[2,3,8,8] image) => (float[2,6] y)
<float[8,3,3,3] w0, float[8] b0, float[512,32] w1, float[32] b1, float[32,6] w2>
{
  c = Conv <pads = [1,1,1,1]> (image, w0, b0) r = Relu (c) f = Flatten (r)
  g = MatMul (f, w1) h = Add (g, b1) s = Tanh (h) y = MatMul (s, w2)
}
"""
IMAGES = [{"image": np.random.default_rng(seed).standard_normal((2, 3, 8, 8)).astype(np.float32)} for seed in range(4)]
OURS = [{}, {"weights": "uint8,asymmetric,per-tensor"}, {"activations": "int8,symmetric"}, {"activations": "symmetric"}]


def arrays(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def weights(model: onnx.ModelProto) -> list[npt.NDArray[np.float64]]:
    """Return what the codes of all weights represent, as each operator's specification says; products as [K, N]."""
    found, held = [], arrays(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        given = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "MatMulNBits":
            blocks = -(-given["K"] // given["block_size"])
            codes = held[node.input[1]].reshape(given["N"], blocks, -1).astype(int)
            zeros = held[node.input[3]].reshape(given["N"], blocks, 1).astype(int) if len(node.input) > 3 else 128
            values = (codes - zeros) * held[node.input[2]].reshape(given["N"], blocks, 1).astype(float)
            found.append(values.reshape(given["N"], -1)[:, : given["K"]].T)
        elif node.op_type == "DequantizeLinear" and held.get(node.input[0], np.empty(0)).ndim > 1:
            codes = held[node.input[0]].astype(int)
            beside = [1] * codes.ndim
            if held[node.input[1]].size > 1:
                beside[given.get("axis", 1)] = -1
            zero = held[node.input[2]].astype(int).reshape(beside) if len(node.input) > 2 else 0
            found.append((codes - zero) * held[node.input[1]].astype(float).reshape(beside))
        elif node.op_type in ("MatMulInteger", "ConvInteger"):
            codes, zero = held[node.input[1]].astype(int), 0
            if len(node.input) > 3:
                zero = held[node.input[3]].astype(int)
            (cast,) = (each for each in model.graph.node if node.output[0] in each.input)
            (mul,) = (each for each in model.graph.node if cast.output[0] in each.input)
            (factor,) = (producers[name] for name in mul.input if name != cast.output[0])
            (scale,) = (held[name] for name in factor.input if name in held)
            if node.op_type == "ConvInteger":
                scale = scale.reshape(-1, 1, 1, 1)
            found.append((codes - zero) * scale.astype(float))
    return sorted(found, key=lambda array: array.size)


def assert_same_weights(one: onnx.ModelProto, two: onnx.ModelProto, count: int = 3) -> None:
    first, second = weights(one), weights(two)
    assert len(first) == len(second) == count
    for ours, theirs in zip(first, second, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def largest_difference(one: onnx.ModelProto, two: onnx.ModelProto, *, optimize: bool) -> float:
    """Return the largest difference of outputs, as a share of the largest value."""
    name = one.graph.output[0].name
    first, second = (run_model(model, IMAGES[0], optimize=optimize)[name] for model in (one, two))
    return float(np.abs(first - second).max() / np.abs(first).max())


def of_onnxq(options: dict[str, Any]) -> onnx.ModelProto:
    """Return the net in format dynamic; its products saturate nowhere, its convolution does not as ConvInteger."""
    options = {"format": "dynamic", "placement": "everywhere", "target": "cpu-avx2"} | options
    model = written(proto(NET), calibration=IMAGES, **options)
    assert ops(model)["MatMulInteger"] == 2
    assert ops(model)["ConvInteger"] == 1
    return model


def of_onnxruntime(path: Path, **options: Any) -> onnx.ModelProto:
    from onnxruntime.quantization import quantize_dynamic

    onnx.save(proto(NET), path / "net.onnx")
    quantize_dynamic(path / "net.onnx", path / "theirs.onnx", **options)
    model = onnx.load(path / "theirs.onnx")
    assert ops(model)["MatMulInteger"] == 2
    return model


def calibrated(model: onnx.ModelProto, **options: Any) -> onnxq.Report:
    report = onnxq.quantize(model, check=False, calibration=IMAGES, placement="everywhere", **options)
    onnx.checker.check_model(report.model, full_check=True)
    return report


def stored_codes(model: onnx.ModelProto) -> Counter[tuple[tuple[int, ...], bytes]]:
    """Return shape and bytes of what is stored on 8 bits."""
    return Counter(
        (array.shape, array.tobytes())
        for array in arrays(model).values()
        if array.dtype in (np.int8, np.uint8) and array.size > 32
    )


def integer(model: onnx.ModelProto) -> set[str]:
    return {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"} & set(ops(model))


def exact_runs(form: str) -> tuple[bool, ...]:
    """Return with the optimizer off and on, where this processor is exact for codes of 8 bits that keep to no limit."""
    if not adds_pairs():
        return False, True
    return (False,) if form == "qdq" else ()


FUSED = {
    "DynamicQuantizeMatMul": "y = com.microsoft.DynamicQuantizeMatMul (x, c, s, z, b)",
    "MatMulIntegerToFloat": """xc, xs, xz = DynamicQuantizeLinear (x)
                               y = com.microsoft.MatMulIntegerToFloat (xc, c, xs, s, xz, z, b)""",
}


def fused(op: str) -> tuple[onnx.ModelProto, npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Return a model of one operator as onnxruntime fuses it, what its weight represents, and its bias."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(f"""
    <ir_version: 9, opset_import: ["" : 17, "com.microsoft" : 1]>
    net (float[2,48] image) => (float[2,16] y) {{ x = Identity (image) {FUSED[op]} }}""")
    held = {
        "c": rng.integers(0, 256, (48, 16)).astype(np.uint8),
        "s": rng.uniform(0.01, 0.1, 16).astype(np.float32),
        "z": rng.integers(100, 150, 16).astype(np.uint8),
        "b": rng.standard_normal(16).astype(np.float32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in held.items())
    return model, (held["c"].astype(int) - held["z"]) * held["s"].astype(float), held["b"]
