"""Product quantization's cost, on one layer of a language model: bytes, error and time of every way to multiply.

python -m benchmarks.product_codes [--markdown docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxq
from onnx import numpy_helper, parser
from onnxq.numerics.metrics import sqnr_db
from onnxq.numerics.product_codes import product_quantize
from onnxq.runtime.session import open_session
from onnxq.runtime.taps import Taps
from onnxq.runtime.timing import time_interleaved

import models
from benchmarks.look_ups import look_up_product
from benchmarks.measure import environment, write_section

SECTION = "product_codes"
LAYER = "layers.2.mlp.down_proj"
ROWS = 256
HEADER = ("way", "bits a weight", "KB", "dB", "time / float's")
LEGEND = """\
- The layer is `layers.2.mlp.down_proj` of *novel* (512 x 192); inputs are those it gets from Persuasion, other ones to
  learn on than to judge by, 256 rows at a time. **bits a weight** and **KB** count codes, scales and tables. **dB**: of
  the layer's output. **time / float's**: as served, one thread; below 1 is faster than float.
- *codes*: 256 vectors for the whole weight, decoded by Gather when the model is loaded; errors weighed by the inputs'
  mean squares. *look-ups*: inputs replaced by the nearest of 16 prototypes for each run of features, outputs as sums of
  looked-up products: as the graph of standard operators that it takes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and write it into a page if asked to; returns the exit code."""
    parser_ = argparse.ArgumentParser(prog=f"python -m benchmarks.{SECTION}", description=__doc__)
    parser_.add_argument("--markdown", type=Path)
    options = parser_.parse_args(arguments)
    where = environment(("onnxq", "onnxruntime"))
    lines = ["## Product quantization", "", f"{where.date}, {where.processor}, one thread.", ""]
    lines += [f"| {' | '.join(HEADER)} |", f"|---|{'---:|' * (len(HEADER) - 1)}", *rows()]
    text = "\n".join([*lines, "", LEGEND])
    if options.markdown is not None:
        write_section(options.markdown, SECTION, text)
    else:
        print(text)
    return 0


def rows() -> Iterator[str]:
    """Yield the table's rows."""
    zoo = models.load("novel")
    model = ir.load(zoo.path)
    weight = model.graph.initializers[f"{LAYER}.weight"].const_value.numpy().astype(np.float32)  # type: ignore[union-attr]
    name = next(node.inputs[0].name for node in model.graph if node.name == f"/{LAYER}/MatMul")  # type: ignore[union-attr]
    taps = Taps(model, [str(name)])
    inputs = [taps.run(feeds)[str(name)][0].reshape(-1, len(weight)) for feeds in zoo.calibration()]
    learned, fresh = np.concatenate(inputs[:8]), np.concatenate(inputs[8:])[:ROWS]
    expected, ways = fresh @ weight, list(_ways(weight, learned))
    sessions = [open_session(made) for _, made, _ in ways]
    best = time_interleaved(sessions, {"x": fresh})
    for number, ((label, _, size), session) in enumerate(zip(ways, sessions, strict=True)):
        (found,) = session.run({"x": fresh}).values()
        ratio = best.best_ms(number) / best.best_ms(0)
        quality = "-" if number == 0 else f"{sqnr_db(expected, found):.1f}"
        yield f"| {label} | {size * 8 / weight.size:.2f} | {size / 1e3:.1f} | {quality} | {ratio:.2f} |"


def _ways(weight: Any, samples: Any) -> Iterator[tuple[str, Any, float]]:
    """Yield label, model and bytes of every way to compute x W."""
    yield "float32", _model("y = MatMul (x, w)", weight, w=weight), weight.nbytes
    for bits in (4, 2):
        options: dict[str, Any] = {
            "weights": {"dtype": f"uint{bits}", "granularity": "per-block(32)", "method": "gptq"}
        }
        source = _model("y = MatMul (x, w)", weight, w=weight)
        data = [{"x": samples}]
        made = onnxq.quantize(source, format="weight-only", calibration=data, check=False, **options).model
        size = sum(len(each.raw_data) or numpy_helper.to_array(each).nbytes for each in made.graph.initializer)
        yield f"{bits} bits, blocks of 32, gptq", made, size
    importance = np.square(samples, dtype=np.float64).mean(axis=0).astype(np.float32)
    for length in (2, 4, 8):
        codes = product_quantize(weight, length=length, importance=importance)
        body = """
        i = Cast <to = 6> (codes) g = Gather (table, i) t = Transpose <perm = [0, 2, 1]> (g)
        w = Reshape (t, shape) y = MatMul (x, w)"""
        held = {"codes": codes.codes, "table": codes.table, "shape": np.array(weight.shape)}
        yield f"codes of {length} weights", _model(body, weight, **held), codes.codes.nbytes + codes.table.nbytes
    for length in (4, 8):
        product = look_up_product(weight, samples, length=length)
        runs, count, _ = product.prototypes.shape
        body = """
        p = Reshape (x, parts) r = Transpose <perm = [1, 0, 2]> (p) d = MatMul (r, prototypes) s = Sub (d, half)
        k = ArgMax <axis = 2, keepdims = 0> (s) at = Add (k, begins) g = Gather (sums, at)
        y = ReduceSum <keepdims = 0> (g, first)"""
        held = {
            "parts": np.array([0, runs, length]),
            "prototypes": np.ascontiguousarray(product.prototypes.transpose(0, 2, 1)),
            "half": np.square(product.prototypes).sum(axis=2)[:, None] / 2,
            "begins": (np.arange(runs) * count)[:, None],
            "sums": product.sums.reshape(runs * count, -1),
            "first": np.array([0]),
        }
        size = product.sums.nbytes + product.prototypes.nbytes
        yield f"look-ups, runs of {length}", _model(body, weight, **held), size


def _model(body: str, weight: Any, **held: Any) -> onnx.ModelProto:
    features, outputs = weight.shape
    signature = f"(float[n, {features}] x) => (float[n, {outputs}] y)"
    text = f'<ir_version: 10, opset_import: ["" : 21]> layer {signature} {{ {body} }}'
    model: onnx.ModelProto = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in held.items())
    return model


if __name__ == "__main__":
    sys.exit(main())
