"""Files to damage, and how: cut off, bits flipped, bytes overwritten, pieces left out or doubled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnxq.graph.text import model_from_text

NET = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[N,3,8,8] image, bool flag) => (float[N,4] scores)
<float[8,3,3,3] w0, float[8] b0, float[8,4] w1, float[4] b1>
{
  c = Conv <pads = [1,1,1,1], strides = [2,2]> (image, w0, b0)
  r = Relu (c)
  p = GlobalAveragePool (r)
  f = Flatten (p)
  g = If (flag) <
    then_branch = t () => (float[?,8] o) { o = Sigmoid (f) },
    else_branch = e () => (float[?,8] n) { n = Neg (f) }>
  scores = Gemm (g, w1, b1)
}
"""


def damaged(folder: Path, count: int, seed: int = 0) -> list[str]:
    """Write `count` damaged models and `data.npz` that fits the whole one; return the models' names."""
    rng = np.random.default_rng(seed)
    whole = ir.to_proto(model_from_text(NET)).SerializeToString()
    np.savez(folder / "data.npz", image=np.ones((1, 3, 8, 8), np.float32), flag=np.array(True))
    # Weights are most of the bytes, and any bit of theirs is a number: half the damage goes to what is around them.
    noise = [at for at in range(len(whole)) if not _in_weights(at, whole)]
    names = []
    for index in range(count):
        data = bytearray(whole)
        at = int(rng.choice(noise)) if index % 2 else int(rng.integers(len(whole)))
        kind = ("cut", "bit", "bit", "byte", "gap", "twice")[int(rng.integers(6))]
        length = int(rng.integers(1, 20))
        match kind:
            case "cut":
                del data[at:]
            case "bit":
                data[at] ^= 1 << int(rng.integers(8))
            case "byte":
                data[at : at + length] = rng.bytes(length)
            case "gap":
                del data[at : at + length]
            case "twice":
                data[at:at] = data[at : at + length]
        name = f"{index}-{kind}.onnx"
        (folder / name).write_bytes(data)
        names.append(name)
    return names


def _in_weights(at: int, whole: bytes) -> bool:
    """Return whether a byte lies in the longest runs of raw data: those of the two matrices."""
    for name, size in ((b"w0", 8 * 3 * 3 * 3 * 4), (b"w1", 8 * 4 * 4)):
        start = whole.rfind(name)  # the tensor's name comes before its bytes
        if start <= at - 8 < start + size:
            return True
    return False
