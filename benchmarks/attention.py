"""Self-attention as the dynamic format writes it, beside onnxruntime's QAttention: is one operator for all faster?

    python -m benchmarks.attention

Shapes of MiniLM (hidden 384, 12 heads); the same weights and int8 codes for all, activations quantized at run time.
"""

from __future__ import annotations

import re
import sys
import time

import numpy as np
import onnx_ir as ir
from onnxq.graph.text import model_from_text
from onnxq.runtime.session import open_session

HIDDEN, HEADS, ROUNDS = 384, 12, 60
SHAPES = ((1, 32), (1, 128), (1, 256), (8, 32))

_REST = """
    q4 = Reshape (q, split) k4 = Reshape (k, split) v4 = Reshape (v, split)
    qt = Transpose <perm = [0, 2, 1, 3]> (q4) kt = Transpose <perm = [0, 2, 3, 1]> (k4)
    vt = Transpose <perm = [0, 2, 1, 3]> (v4) scores = MatMul (qt, kt) scaled = Mul (scores, root)
    masked = Add (scaled, m) p = Softmax <axis = -1> (masked) c = MatMul (p, vt)
    ct = Transpose <perm = [0, 2, 1, 3]> (c) y = Reshape (ct, join)"""
_FLOAT = "p{i} = MatMul (x, w{i}) {i} = Add (p{i}, b{i}) "
_DYNAMIC = """i{i} = MatMulInteger (xc, c{i}, xz) f{i} = Cast <to = 1> (i{i}) z{i} = Mul (xs, s{i})
    p{i} = Mul (f{i}, z{i}) {i} = Add (p{i}, b{i}) """
_QUANTIZE = "xc, xs, xz = DynamicQuantizeLinear (x) "
BODIES = {
    "float": "".join(_FLOAT.format(i=i) for i in "qkv") + _REST,
    "dynamic": _QUANTIZE + "".join(_DYNAMIC.format(i=i) for i in "qkv") + _REST,
    "QAttention": _QUANTIZE + f"y = com.microsoft.QAttention <num_heads = {HEADS}> (xc, call, ball, xs, sall, n, xz)",
}


def constants() -> dict[str, np.ndarray]:
    """Return weights w, their codes c and scales s, and biases b, of each projection and of all three side by side."""
    rng, found = np.random.default_rng(0), {}
    for i in "qkv":
        found[f"w{i}"] = rng.normal(0, 0.05, (HIDDEN, HIDDEN)).astype(np.float32)
        found[f"b{i}"] = rng.normal(0, 0.1, HIDDEN).astype(np.float32)
        found[f"s{i}"] = np.abs(found[f"w{i}"]).max(axis=0) / np.float32(127)
        found[f"c{i}"] = np.rint(found[f"w{i}"] / found[f"s{i}"]).astype(np.int8)
    found |= {f"{part}all": np.concatenate([found[f"{part}{i}"] for i in "qkv"], axis=-1) for part in "csb"}
    found["split"] = np.array([0, 0, HEADS, HIDDEN // HEADS])
    found["join"] = np.array([0, 0, HIDDEN])
    return found | {"root": np.array((HIDDEN // HEADS) ** -0.5, np.float32)}


def model(kind: str) -> ir.Model:
    """Return one of the three models; x is [batch, length, hidden], the mask additive (m) or of lengths (n)."""
    known = {name: values for name, values in constants().items() if re.search(rf"\b{name}\b", BODIES[kind])}
    types = {"float32": "float", "int64": "int64", "int8": "int8"}
    given = [f"{types[str(each.dtype)]}[{','.join(map(str, each.shape))}] {name}" for name, each in known.items()]
    mask = "int32[b] n" if kind == "QAttention" else "float[b,1,1,l] m"
    made = model_from_text(
        '<ir_version: 9, opset_import: ["" : 17, "com.microsoft" : 1]> '
        f"g ({', '.join([f'float[b,l,{HIDDEN}] x', mask, *given])}) => (float[b,l,{HIDDEN}] y) {{ {BODIES[kind]} }}"
    )
    for value in [value for value in made.graph.inputs if value.name in known]:
        made.graph.inputs.remove(value)
        value.const_value = ir.tensor(known[value.name or ""], name=value.name)
        made.graph.register_initializer(value)
    return made


def main() -> int:
    """Print a table of times relative to the dynamic format's, and distances from float."""
    sessions = {kind: open_session(model(kind)) for kind in BODIES}
    print("| batch x length | dynamic, ms | QAttention / dynamic | dynamic, dB | QAttention, dB |")
    print("|---|---:|---:|---:|---:|")
    for batch, length in SHAPES:
        x = np.random.default_rng(1).standard_normal((batch, length, HIDDEN)).astype(np.float32)
        masks = {"n": np.full(batch, length, np.int32), "m": np.zeros((batch, 1, 1, length), np.float32)}
        feeds = {
            kind: {"x": x, name: masks[name]} for kind in BODIES for name in ("n" if kind == "QAttention" else "m")
        }
        times: dict[str, list[float]] = {kind: [] for kind in BODIES}
        for _ in range(ROUNDS):
            for kind, session in sessions.items():
                began = time.perf_counter()
                session.run(feeds[kind])
                times[kind].append(time.perf_counter() - began)
        y = {kind: session.run(feeds[kind])["y"].astype(np.float64) for kind, session in sessions.items()}
        decibel = [
            10 * np.log10(np.sum(y["float"] ** 2) / np.sum((y["float"] - y[kind]) ** 2))
            for kind in BODIES
            if kind != "float"
        ]
        ratio = np.median(np.array(times["QAttention"]) / np.array(times["dynamic"]))
        cells = (f"{batch} x {length}", f"{1e3 * np.median(times['dynamic']):.2f}", f"{ratio:.2f}")
        print(f"| {' | '.join((*cells, *(f'{each:.1f}' for each in decibel)))} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
