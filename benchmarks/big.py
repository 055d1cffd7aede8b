"""Models that do not fit in memory: peak memory and time, and a check of the result layer by layer.

    python -m benchmarks.big [--gigabytes 10] [--folder /tmp/onnxq-big]
    python -m benchmarks.big --static [--gigabytes 3]

Each step is a process of its own, whose peak resident memory (mapped pages of files included) is what is printed.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN, INNER, HEADS = 4096, 11008, 32
_BLOCK = 32
_LAYER = 4 * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INNER)  # bytes


def make(folder: Path, gigabytes: float) -> None:
    """Write decoder layers of the LLaMA-7B shape (Touvron et al. 2023, table 2), weights streamed to a data file."""
    from onnx import TensorProto, helper

    layers = max(1, round(gigabytes * 1e9 / _LAYER))
    rng = np.random.default_rng(0)
    noise = (rng.standard_normal(1 << 24, dtype=np.float32) / np.sqrt(HIDDEN)).astype(np.float32)
    nodes: list[Any] = []
    weights: list[Any] = []
    with (folder / "model.data").open("wb") as data:

        def weight(name: str, *shape: int) -> str:
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            size, start = int(np.prod(shape)), data.tell()
            for key, value in (("location", "model.data"), ("offset", start), ("length", 4 * size)):
                tensor.external_data.add(key=key, value=str(value))
            left = size
            while left:  # another part of the noise each time
                part = noise[int(rng.integers(1 << 20)) :][:left]
                data.write(part.tobytes())
                left -= part.size
            weights.append(tensor)
            return name

        def node(kind: str, name: str, *inputs: str, **attributes: Any) -> str:
            nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
            return name

        x = "x"
        for index in range(layers):
            at = f"layer{index}"
            normed = node("Identity", f"{at}/in", x)
            q, k, v = (
                node("MatMul", f"{at}/{part}", normed, weight(f"{at}/{part}/weight", HIDDEN, HIDDEN)) for part in "qkv"
            )
            turned = node("Transpose", f"{at}/turned", k, perm=[0, 2, 1])
            scores = node("Softmax", f"{at}/softmax", node("MatMul", f"{at}/scores", q, turned))
            mixed = node("MatMul", f"{at}/mixed", scores, v)
            out = node("MatMul", f"{at}/out", mixed, weight(f"{at}/out/weight", HIDDEN, HIDDEN))
            x = node("Add", f"{at}/residual", x, out)
            gate, up = (
                node("MatMul", f"{at}/{part}", x, weight(f"{at}/{part}/weight", HIDDEN, INNER))
                for part in ("gate", "up")
            )
            inner = node("Mul", f"{at}/inner", node("Sigmoid", f"{at}/sigmoid", gate), up)
            down = node("MatMul", f"{at}/down", inner, weight(f"{at}/down/weight", INNER, HIDDEN))
            x = node("Add", f"{at}/end", x, down)
        node("Identity", "y", x)
    shape: list[Any] = [1, "tokens", HIDDEN]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "decoder", info[:1], info[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def weight_only(folder: Path) -> dict[str, Any]:
    """Quantize weights to 4 bits, rounding to nearest: a better method would take its time, not more memory."""
    import onnxq

    options: dict[str, Any] = {"format": "weight-only", "weights": "method=rtn", "check": False, "force": True}
    report = onnxq.quantize(folder / "model.onnx", folder / "int4.onnx", **options)
    return {"seconds": dict(report.seconds), "bytes": report.quantized_bytes}


def check(folder: Path) -> dict[str, Any]:
    """Load the result, and compare every product's weights with the original's, one layer at a time."""
    import onnx
    from onnx import external_data_helper, numpy_helper

    onnx.checker.check_model(str(folder / "int4.onnx"))
    float_model, quantized = (
        onnx.load(folder / name, load_external_data=False) for name in ("model.onnx", "int4.onnx")
    )
    originals = {tensor.name: tensor for tensor in float_model.graph.initializer}
    stored = {tensor.name: tensor for tensor in quantized.graph.initializer}

    def array(tensor: Any) -> np.ndarray[Any, Any]:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        result = numpy_helper.to_array(tensor)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        return result

    products, worst = 0, np.inf
    for node in quantized.graph.node:
        if node.op_type != "MatMulNBits":
            continue
        products += 1
        packed, scale, zero = (array(stored[name]) for name in node.input[1:4])
        name = next(name for name in originals if node.input[1].startswith(f"{name}/"))
        weight = array(originals[name])  # [inputs, outputs]
        for start in range(0, len(packed), 512):  # rows of outputs
            rows = packed[start : start + 512]
            codes = np.stack([rows & 15, rows >> 4], axis=-1).reshape(*rows.shape[:2], -1).astype(np.float32)
            bytes_ = zero.reshape(len(packed), -1)[start : start + 512]
            zeros = np.stack([bytes_ & 15, bytes_ >> 4], axis=-1).reshape(len(rows), -1)[:, : rows.shape[1]]
            scales = scale.reshape(len(packed), -1)[start : start + 512]
            values = ((codes - zeros[..., None]) * scales[..., None]).reshape(len(rows), -1)
            expected = weight[:, start : start + 512].T
            noise = float(np.square(values - expected, dtype=np.float64).sum())
            worst = min(worst, 10 * np.log10(float(np.square(expected, dtype=np.float64).sum()) / noise))
    if products != sum(name in originals for node in float_model.graph.node for name in node.input):
        raise SystemExit("products are missing")
    return {"products": products, "worst_db": float(worst)}


def serve(folder: Path) -> dict[str, Any]:
    """Load the result into onnxruntime and run a token through it."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(folder / "int4.onnx"), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.ones((1, 1, HIDDEN), np.float32) / HIDDEN})
    return {"finite": bool(np.isfinite(y).all())}


def session(folder: Path) -> dict[str, Any]:
    """Run the float model alone, as calibration does: what it takes anyhow."""
    from onnxq.runtime.session import open_session

    running = open_session(folder / "model.onnx", optimize=False)
    for feeds in _samples():
        running.run(feeds)
    return {}


def calibrate(folder: Path) -> dict[str, Any]:
    """Calibrate the float model."""
    import onnxq

    found = onnxq.calibrate(folder / "model.onnx", calibration=_samples(), placement="everywhere")
    return {"tensors": len(found.tensors)}


def _samples() -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((1, 16, HIDDEN), dtype=np.float32)} for _ in range(2)]


STEPS = {step.__name__: step for step in (weight_only, check, serve, session, calibrate)}


def measured(step: str, folder: Path) -> dict[str, Any]:
    """Run one step in a process of its own."""
    started = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.big", "--step", step, "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{step:12} {found['peak_mb']:8.0f} MB {time.monotonic() - started:8.0f} s  {found['result']}", flush=True)
    return found


def main() -> None:
    """Make a model, do the steps, and take everything away again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=None)
    parser.add_argument("--static", action="store_true")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; 12 GB are needed for 10")
    parser.add_argument("--step", choices=sorted(STEPS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step is not None:
        result = STEPS[arguments.step](arguments.folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"peak_mb": peak, "result": result}))
        return
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="onnxq-big-"))
    folder.mkdir(exist_ok=True)
    gigabytes = arguments.gigabytes or (3 if arguments.static else 10)
    try:
        make(folder, gigabytes)
        print(f"model: {(folder / 'model.data').stat().st_size / 1e9:.2f} GB")
        if arguments.static:
            alone, ours = measured("session", folder), measured("calibrate", folder)
            print(f"calibration over the float session: {ours['peak_mb'] - alone['peak_mb']:.0f} MB")
        else:
            for step in ("weight_only", "check", "serve"):
                measured(step, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
