"""What a random graph is made of: each function appends one operator to a builder, or nothing where none would fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto, helper

Maker = Callable[[Any], None]
MAKERS: list[Maker] = []


def maker(make: Maker) -> Maker:
    """Register an operator."""
    MAKERS.append(make)
    return make


@maker
def conv(b: Any) -> None:
    found = b.value(lambda shape: 3 <= len(shape) <= 5)
    if found is None:
        return
    (x, shape), spatial = found, len(found[1]) - 2
    kernel = b.pick(1, 2, 3)
    if min(shape[2:]) < kernel:
        return
    channels, out = shape[1], b.pick(1, 8, 32)
    group = b.pick(1, 1, channels)
    if group == channels:
        out = channels * b.pick(1, 2)
    pad, stride = b.pick(0, 1), b.pick(1, 2)
    inputs = [x, b.weight((out, channels // group, *[kernel] * spatial))]
    if b.chance():
        inputs.append(b.weight((out,)))
    attributes: dict[str, Any] = {"strides": [stride] * spatial, "pads": [pad] * 2 * spatial, "group": group}
    (y,) = b.node("Conv", inputs, kernel_shape=[kernel] * spatial, **attributes)
    b.add(y, (shape[0], out, *((n + 2 * pad - kernel) // stride + 1 for n in shape[2:])))


@maker
def conv_transpose(b: Any) -> None:
    found = b.value(lambda shape: 3 <= len(shape) <= 4 and max(shape[2:]) <= 8)
    if found is None:
        return
    (x, shape), spatial = found, len(found[1]) - 2
    out, group = b.pick(1, 2), b.pick(1, shape[1])
    inputs = [x, b.weight((shape[1], out, *[2] * spatial))]
    if b.chance():
        inputs.append(b.weight((out * group,)))
    (y,) = b.node("ConvTranspose", inputs, strides=[2] * spatial, group=group)
    b.add(y, (shape[0], out * group, *(2 * n for n in shape[2:])))


@maker
def matmul(b: Any) -> None:
    found = b.value(lambda shape: len(shape) >= 2)
    if found is None:
        return
    x, shape = found
    out = b.pick(1, 8, 64, 128)
    batch = shape[:-2] if b.pick(False, False, True) else ()
    (y,) = b.node("MatMul", [x, b.weight((*batch, shape[-1], out))])
    b.add(y, (*shape[:-1], out))


@maker
def matmul_left(b: Any) -> None:
    found = b.value(lambda shape: len(shape) >= 2)
    if found is None:
        return
    x, shape = found
    (y,) = b.node("MatMul", [b.weight((4, shape[-2])), x])
    b.add(y, (*shape[:-2], 4, shape[-1]))


@maker
def matmul_running(b: Any) -> None:
    found = b.value(lambda shape: len(shape) >= 2)
    if found is None:
        return
    x, shape = found
    order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    (t,) = b.node("Transpose", [x], perm=order)
    (y,) = b.node("MatMul", [x, t])
    b.add(y, (*shape[:-1], shape[-2]))


@maker
def gemm(b: Any) -> None:
    found = b.value(lambda shape: len(shape) == 2)
    if found is None:
        return
    x, shape = found
    trans_a, trans_b, out = b.chance(), b.chance(), b.pick(1, 8, 96)
    rows, inner = shape[::-1] if trans_a else shape
    inputs = [x, b.weight((out, inner) if trans_b else (inner, out))]
    bias = b.pick(None, (out,), (1,), (1, out), (rows, out), ())
    if bias is not None:
        inputs.append(b.weight(bias))
    elif b.opset < 11:
        return
    alpha, beta = b.pick(1.0, 0.5, -2.0), b.pick(1.0, 0.25)
    (y,) = b.node("Gemm", inputs, transA=int(trans_a), transB=int(trans_b), alpha=alpha, beta=beta)
    b.add(y, (rows, out))


@maker
def with_constant(b: Any) -> None:
    x, shape = b.value()
    kind = b.pick(shape, shape[-1:], (), (1,))
    op = b.pick("Add", "Mul", "Sub", "Div")
    constant = b.weight(kind) if op != "Div" else b.constant(np.float32(b.pick(0.5, 3.0)))
    inputs = [x, constant] if op == "Div" or b.chance() else [constant, x]
    (y,) = b.node(op, inputs)
    b.add(y, shape)


@maker
def with_other(b: Any) -> None:
    x, shape = b.value()
    y, _ = b.value(lambda other: other == shape)
    (z,) = b.node(b.pick("Add", "Mul", "Sub", "Max"), [x, y])
    b.add(z, shape)


@maker
def activation(b: Any) -> None:
    x, shape = b.value()
    ops = ["Relu", "Sigmoid", "Tanh", "LeakyRelu", "Softplus", "Elu", "Identity", "Abs", "Neg"]
    if b.opset >= 14:
        ops.append("HardSwish")
    (y,) = b.node(b.pick(*ops), [x])
    b.add(y, shape)


@maker
def clip(b: Any) -> None:
    x, shape = b.value()
    if b.opset < 11:
        (y,) = b.node("Clip", [x], min=b.pick(0.0, -1.0), max=b.pick(6.0, 1.0))
    else:
        bounds = [b.constant(np.float32(b.pick(0.0, -1.0)))]
        bounds += [b.constant(np.float32(b.pick(6.0, 1.0)))] if b.chance() else []
        (y,) = b.node("Clip", [x, *bounds])
    b.add(y, shape)


@maker
def softmax(b: Any) -> None:
    x, shape = b.value()
    (y,) = b.node("Softmax", [x], axis=b.pick(-1, len(shape) - 1, 0) if b.opset >= 11 else len(shape) - 1)
    b.add(y, shape)


@maker
def pool(b: Any) -> None:
    found = b.value(lambda shape: 3 <= len(shape) <= 5 and min(shape[2:]) >= 2)
    if found is None:
        return
    (x, shape), spatial = found, len(found[1]) - 2
    op = b.pick("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
    if op.startswith("Global"):
        (y,) = b.node(op, [x])
        b.add(y, (*shape[:2], *[1] * spatial))
        return
    (y,) = b.node(op, [x], kernel_shape=[2] * spatial, strides=[2] * spatial)
    b.add(y, (*shape[:2], *(n // 2 for n in shape[2:])))


@maker
def batch_norm(b: Any) -> None:
    found = b.value(lambda shape: len(shape) >= 3)
    if found is None:
        return
    x, shape = found
    channels = (shape[1],)
    variance = b.constant(np.abs(b.rng.standard_normal(channels)).astype(np.float32) + 0.5)
    (y,) = b.node("BatchNormalization", [x, *(b.weight(channels) for _ in range(3)), variance])
    b.add(y, shape)


@maker
def layer_norm(b: Any) -> None:
    found = b.value(lambda shape: len(shape) >= 2 and shape[-1] > 1) if b.opset >= 17 else None
    if found is None:
        return
    x, shape = found
    (y,) = b.node("LayerNormalization", [x, b.weight(shape[-1:]), b.weight(shape[-1:])])
    b.add(y, shape)


@maker
def concat(b: Any) -> None:
    x, shape = b.value()
    y, _ = b.value(lambda other: other == shape)
    axis = b.pick(*range(len(shape)))
    (z,) = b.node("Concat", [x, y, *([b.weight(shape)] if b.chance() else [])], axis=axis)
    parts = len(b.nodes[-1].input)
    b.add(z, tuple(n * parts if i == axis else n for i, n in enumerate(shape)))


@maker
def reshape(b: Any) -> None:
    x, shape = b.value()
    new = b.pick((math.prod(shape),), (shape[0], math.prod(shape[1:])), (1, *shape), (*shape, 1))
    (y,) = b.node("Reshape", [x, b.constant(np.array(new, np.int64))])
    b.add(y, new)


@maker
def flatten(b: Any) -> None:
    x, shape = b.value()
    (y,) = b.node("Flatten", [x], axis=1)
    b.add(y, (shape[0], math.prod(shape[1:])))


@maker
def transpose(b: Any) -> None:
    x, shape = b.value()
    order = list(b.pick(*({tuple(reversed(range(len(shape)))), (*range(1, len(shape)), 0)})))
    (y,) = b.node("Transpose", [x], perm=order)
    b.add(y, tuple(shape[axis] for axis in order))


@maker
def split(b: Any) -> None:
    found = b.value(lambda shape: shape[-1] % 2 == 0)
    if found is None:
        return
    x, shape = found
    half, axis = (*shape[:-1], shape[-1] // 2), len(shape) - 1
    more: dict[str, Any] = {"num_outputs": 2} if b.opset >= 18 else {}
    for y in b.node("Split", [x], outputs=2, axis=axis, **more):
        b.add(y, half)


@maker
def slice_(b: Any) -> None:
    found = b.value(lambda shape: shape[-1] >= 2)
    if found is None or b.opset < 10:
        return
    x, shape = found
    bounds = [b.constant(np.array([n], np.int64)) for n in (1, 2**31, len(shape) - 1)]
    (y,) = b.node("Slice", [x, *bounds])
    b.add(y, (*shape[:-1], shape[-1] - 1))


@maker
def gather(b: Any) -> None:
    rows, width = 100, b.pick(4, 32)
    table = b.weight((rows, width))
    indices = b.constant(b.rng.integers(0, rows, (2, 3)).astype(np.int64))
    (y,) = b.node("Gather", [table, indices])
    x, _ = b.value()
    (low,) = b.node("ReduceMean", [x], keepdims=0)
    (z,) = b.node("Add", [y, low])  # so that it depends on an input
    b.add(z, (2, 3, width))


@maker
def lookup(b: Any) -> None:
    x, shape = b.value()
    (c,) = b.node("Clip", [x], min=0.0, max=9.0) if b.opset < 11 else ("",)
    if not c:
        return
    (i,) = b.node("Cast", [c], to=TensorProto.INT64)
    width = b.pick(4, 32)
    (y,) = b.node("Gather", [b.weight((10, width)), i])
    b.add(y, (*shape, width))


@maker
def cast(b: Any) -> None:
    x, shape = b.value()
    (half,) = b.node("Cast", [x], to=b.pick(TensorProto.FLOAT16, TensorProto.DOUBLE))
    (y,) = b.node("Cast", [half], to=TensorProto.FLOAT)
    b.add(y, shape)


@maker
def where(b: Any) -> None:
    x, shape = b.value()
    mask = b.constant(b.rng.random(shape) < 0.5)
    (y,) = b.node("Where", [mask, x, b.constant(np.float32(b.pick(0.0, -1e4, 1.0)))])
    b.add(y, shape)


@maker
def pad(b: Any) -> None:
    found = b.value(lambda shape: len(shape) >= 3)
    if found is None:
        return
    x, shape = found
    pads = [*[0] * (len(shape) - 1), 1, *[0] * (len(shape) - 1), 1]
    if b.opset < 11:
        (y,) = b.node("Pad", [x], pads=pads)
    else:
        (y,) = b.node("Pad", [x, b.constant(np.array(pads, np.int64))])
    b.add(y, (*shape[:-1], shape[-1] + 2))


@maker
def resize(b: Any) -> None:
    found = b.value(lambda shape: len(shape) == 4 and max(shape) <= 8)
    if found is None or b.opset < 11:
        return
    x, shape = found
    scales = b.constant(np.array([1, 1, 2, 2], np.float32))
    mode = b.pick("nearest", "linear")
    (y,) = b.node("Resize", [x, b.constant(np.zeros(0, np.float32)) if b.opset < 13 else "", scales], mode=mode)
    b.add(y, (*shape[:2], 2 * shape[2], 2 * shape[3]))


@maker
def reduce_mean(b: Any) -> None:
    x, shape = b.value()
    if b.opset < 18:
        (y,) = b.node("ReduceMean", [x], axes=[len(shape) - 1], keepdims=1)
    else:
        (y,) = b.node("ReduceMean", [x, b.constant(np.array([len(shape) - 1], np.int64))], keepdims=1)
    b.add(y, (*shape[:-1], 1))


@maker
def lstm(b: Any) -> None:
    found = b.value(lambda shape: len(shape) == 3)
    if found is None:
        return
    x, shape = found
    hidden = b.pick(3, 32)
    op, gates = b.pick(("LSTM", 4), ("GRU", 3), ("RNN", 1))
    inputs = [x, b.weight((1, gates * hidden, shape[2])), b.weight((1, gates * hidden, hidden))]
    if b.chance():
        inputs.append(b.weight((1, 2 * gates * hidden)))
    y, last = b.node(op, inputs, outputs=2, hidden_size=hidden)
    b.add(y, (shape[0], 1, shape[1], hidden))
    b.add(last, (1, shape[1], hidden))


@maker
def fake_quantize(b: Any) -> None:
    x, shape = b.value()
    if b.opset < 10:
        return
    scale, zero = b.constant(np.float32(0.05)), b.constant(np.array(b.pick(0, 3), b.pick(np.uint8, np.int8)))
    (q,) = b.node("QuantizeLinear", [x, scale, zero])
    (y,) = b.node("DequantizeLinear", [q, scale, zero])
    b.add(y, shape)


@maker
def if_(b: Any) -> None:
    x, shape = b.value()
    (mean,) = b.node("ReduceMean", [x], keepdims=0)
    (condition,) = b.node("Greater", [mean, b.constant(np.float32(0))])
    parts, bodies = [], []
    for side in ("then_", "else_"):
        inner = b.branch(f"{side}{len(b.nodes)}_")
        inner.grow(b.pick(1, 2, 4))
        bodies.append(inner)
    shapes = [{s for _, s in inner.values[len(b.values) :]} for inner in bodies]
    common = sorted(shapes[0] & shapes[1]) or [shape]
    chosen = b.pick(*common)
    for side, inner in zip(("then", "else"), bodies, strict=True):
        new = [name for name, known in inner.values[len(b.values) :] if known == chosen]
        if new:
            out = new[-1]
        else:
            (out,) = inner.node("Identity", [x])
        declared = helper.make_tensor_value_info(out, TensorProto.FLOAT, list(chosen))
        parts.append(helper.make_graph(inner.nodes, f"{side}_body", [], [declared], inner.initializers))
    (y,) = b.node("If", [condition], then_branch=parts[0], else_branch=parts[1])
    b.add(y, chosen)
