"""Models that do not fit in memory: peak memory and time, and a check of the result layer by layer.

    python -m benchmarks.big [--gigabytes 10] [--folder /tmp/onnxq-big]
    python -m benchmarks.big --static [--gigabytes 3]

Each step is a process of its own. What is printed is its peak resident memory: its own memory and the pages of files
that it has mapped. Quantizing and checking run under a limit of 1 GB on own memory (RLIMIT_DATA), beyond which an
allocation fails, and their peak with mapped pages must stay below 1 GB too.
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
    """Load the result back a layer at a time, and compare what onnxruntime makes of it with the float layer.

    The float layers are computed by numpy from the original file; each quantized layer reads what the float one does.
    """
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, external_data_helper, helper

    onnx.checker.check_model(str(folder / "int4.onnx"))
    quantized = onnx.load(folder / "int4.onnx", load_external_data=False)
    weights = _float_weights(folder)
    stored = {tensor.name: tensor for tensor in quantized.graph.initializer}
    layers = sum(name.endswith("/down/weight") for name in weights)
    x = np.random.default_rng(2).standard_normal((1, 4, HIDDEN), dtype=np.float32)
    products, worst = 0, np.inf
    for index in range(layers):
        at = f"layer{index}/"
        nodes = [node for node in quantized.graph.node if node.name.startswith(at)]
        products += sum(node.op_type == "MatMulNBits" for node in nodes)
        made = {name for node in nodes for name in node.output}
        read = dict.fromkeys(name for node in nodes for name in node.input if name and name not in made)
        (source,) = (name for name in read if name not in stored)
        held = []
        for name in read:
            if name in stored:
                tensor = TensorProto()
                tensor.CopyFrom(stored[name])
                if tensor.data_location == TensorProto.EXTERNAL:
                    external_data_helper.load_external_data_for_tensor(tensor, str(folder))
                    tensor.data_location = TensorProto.DEFAULT
                    del tensor.external_data[:]
                held.append(tensor)
        last = nodes[-1].output[0]
        info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (source, last)]
        graph = helper.make_graph(nodes, at, info[:1], info[1:], held)
        layer = helper.make_model(graph, opset_imports=quantized.opset_import, ir_version=quantized.ir_version)
        serialized = layer.SerializeToString()
        del held, graph, layer
        session = ort.InferenceSession(serialized, providers=["CPUExecutionProvider"])
        del serialized
        (found,) = session.run(None, {source: x})
        del session
        expected = _layer(at, x, weights)
        noise = np.square(found - expected, dtype=np.float64).sum()
        worst = min(worst, 10 * np.log10(np.square(expected, dtype=np.float64).sum() / noise))
        x = expected / np.abs(expected).max()
    if products != len(weights) or any(not name.startswith("layer") for name in weights):
        raise SystemExit(f"{len(weights)} products are to be on codes, {products} are")
    return {"layers": layers, "products": products, "worst_layer_db": round(float(worst), 1)}


def _float_weights(folder: Path) -> dict[str, np.memmap[Any, Any]]:
    """Return the original's weights, mapped."""
    import onnx

    result = {}
    for tensor in onnx.load(folder / "model.onnx", load_external_data=False).graph.initializer:
        where = {entry.key: entry.value for entry in tensor.external_data}
        path, shape = folder / where["location"], tuple(tensor.dims)
        result[tensor.name] = np.memmap(path, np.float32, "r", int(where["offset"]), shape)
    return result


def _layer(at: str, x: np.ndarray[Any, Any], weights: dict[str, np.memmap[Any, Any]]) -> np.ndarray[Any, Any]:
    """Compute one float layer; pages of its weights leave memory behind it."""
    import mmap

    def times(value: np.ndarray[Any, Any], part: str) -> np.ndarray[Any, Any]:
        weight = weights[f"{at}{part}/weight"]
        result: np.ndarray[Any, Any] = value @ np.asarray(weight)
        weight._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
        return result

    scores = times(x, "q") @ times(x, "k").swapaxes(1, 2)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    x = np.asarray(x + times(shares / shares.sum(axis=-1, keepdims=True) @ times(x, "v"), "out"))
    gate = times(x, "gate")
    inner: np.ndarray[Any, Any] = times(x, "up") / (1 + np.exp(-gate))
    return np.asarray(x + times(inner, "down"))


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
_LIMITED = ("weight_only", "check")
_LIMIT = 10**9


def _step(name: str, folder: Path) -> None:
    """Do one step in this process, and print its result and the process's peak memory."""
    if name in _LIMITED:
        resource.setrlimit(resource.RLIMIT_DATA, (_LIMIT, _LIMIT))
    result = STEPS[name](folder)
    # Not `resource.getrusage`: its peak is inherited from the parent process.
    (peak,) = (
        int(line.split()[1]) / 1000 * 1.024
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        if line.startswith("VmHWM:")
    )
    print(json.dumps({"peak_mb": peak, "result": result}))


def measured(step: str, folder: Path) -> dict[str, Any]:
    """Run one step in a process of its own."""
    started = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.big", "--step", step, "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{step:12} {found['peak_mb']:8.0f} MB {time.monotonic() - started:8.0f} s  {found['result']}", flush=True)
    if step in _LIMITED and found["peak_mb"] > _LIMIT / 1e6:
        raise SystemExit(f"{step} took more than {_LIMIT / 1e6:.0f} MB with mapped pages")
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
        _step(arguments.step, arguments.folder)
        return
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="onnxq-big-"))
    folder.mkdir(exist_ok=True)
    gigabytes = arguments.gigabytes or (3 if arguments.static else 10)
    try:
        make(folder, gigabytes)
        print(f"model: {(folder / 'model.data').stat().st_size / 1e9:.2f} GB")
        if arguments.static:
            alone, ours = measured("session", folder), measured("calibrate", folder)
            over = ours["peak_mb"] - alone["peak_mb"]
            print(f"calibration over the float session: {over:.0f} MB")
            if over > 300:
                raise SystemExit("more than 300 MB")
        else:
            for step in ("weight_only", "check", "serve"):
                measured(step, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
