"""Networks of a known shape with random weights: what they compute means nothing, what they cost is what counts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

IMAGE = (1, 3, 224, 224)
_SMALL = (1, 3, 96, 96)


class _Builder:
    """Appends nodes to a graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._generator = np.random.default_rng(0)

    def weight(self, *shape: int, fan_in: int | None = None) -> str:
        """Add a weight that keeps the variance, and return its name."""
        name = f"weight{len(self.weights)}"
        values = self._generator.standard_normal(shape, dtype=np.float32) / np.sqrt(fan_in or np.prod(shape[1:]) / 2)
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output, and return its name."""
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def conv(self, x: str, channels: tuple[int, int], kernel: int, stride: int = 1) -> str:
        """Add a convolution from `channels[0]` to `channels[1]` channels."""
        weight = self.weight(channels[1], channels[0], kernel, kernel)
        size: dict[str, Any] = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "strides": [stride] * 2}
        return self.node("Conv", x, weight, **size)

    def constant(self, value: object, kind: type[np.generic] = np.float32) -> str:
        """Add a constant, and return its name."""
        name = f"constant{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def dense(self, x: str, rows: int, columns: int) -> str:
        """Add a product with a weight, and a bias."""
        product = self.node("MatMul", x, self.weight(rows, columns, fan_in=rows))
        return self.node("Add", product, self.constant(0.02 * self._generator.standard_normal(columns)))

    def normalized(self, x: str, width: int) -> str:
        """Add a layer normalization."""
        ones, zeros = self.constant(np.ones(width)), self.constant(np.zeros(width))
        return self.node("LayerNormalization", x, ones, zeros, axis=-1, epsilon=1e-12)

    def save(
        self,
        output: str,
        shape: list[int | str | None],
        path: Path,
        inputs: Mapping[str, tuple[int, list[int | str | None]]] | None = None,
    ) -> None:
        """Write the model; `inputs`: element type and shape of each, None for one image."""
        inputs = inputs or {"x": (TensorProto.FLOAT, ["batch", *IMAGE[1:]])}
        graph = helper.make_graph(
            self.nodes,
            path.stem,
            [helper.make_tensor_value_info(name, kind, extents) for name, (kind, extents) in inputs.items()],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(onnx.shape_inference.infer_shapes(model), path)


def plain(path: Path) -> None:
    """18 times Conv 3x3 and Relu, 16 channels at 224x224: few weights, large activations."""
    network, x, width = _Builder(), "x", 3
    for _ in range(18):
        x = network.node("Relu", network.conv(x, (width, 16), 3))
        width = 16
    network.save(x, ["batch", 16, *IMAGE[2:]], path)


def resnet50(path: Path) -> None:
    """ResNet-50 (He et al. 2015, figure 3 right and table 1), batch normalization folded away."""
    network = _Builder()
    x = network.node("Relu", network.conv("x", (3, 64), 7, 2))
    x = network.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    width = 64
    for stage, (blocks, inner) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 0 else 1
            y = network.node("Relu", network.conv(x, (width, inner), 1))
            y = network.node("Relu", network.conv(y, (inner, inner), 3, stride))
            y = network.conv(y, (inner, 4 * inner), 1)
            shortcut = network.conv(x, (width, 4 * inner), 1, stride) if block == 0 else x
            x = network.node("Relu", network.node("Add", y, shortcut))
            width = 4 * inner
    x = network.node("Flatten", network.node("GlobalAveragePool", x))
    network.save(network.node("Gemm", x, network.weight(1000, width), transB=1), ["batch", 1000], path)


def bert(path: Path, layers: int = 12, width: int = 768, heads: int = 12) -> None:
    """BERT-base (Devlin et al. 2018: 12 layers, 768 wide, 12 heads), as torch exports it: without pooling or a head."""
    network, size = _Builder(), width // heads
    mask = network.node("Cast", network.node("Unsqueeze", "attention_mask", network.constant([1, 2], np.int64)), to=1)
    hidden = network.node("Sub", network.constant(1.0), mask)
    mask = network.node("Mul", hidden, network.constant(-10000.0))
    words = network.node("Gather", network.weight(30522, width, fan_in=width), "input_ids")
    x = network.normalized(words, width)
    rows = network.constant([0, 0, heads, size], np.int64)
    flat = network.constant([0, 0, width], np.int64)
    for _ in range(layers):
        parts = [network.node("Reshape", network.dense(x, width, width), rows) for _ in range(3)]
        query, value = (network.node("Transpose", part, perm=[0, 2, 1, 3]) for part in (parts[0], parts[2]))
        key = network.node("Transpose", parts[1], perm=[0, 2, 3, 1])
        scores = network.node("Div", network.node("MatMul", query, key), network.constant(np.sqrt(size)))
        shares = network.node("Softmax", network.node("Add", scores, mask), axis=-1)
        mixed = network.node("Transpose", network.node("MatMul", shares, value), perm=[0, 2, 1, 3])
        attended = network.dense(network.node("Reshape", mixed, flat), width, width)
        x = network.normalized(network.node("Add", attended, x), width)
        inner = network.dense(x, width, 4 * width)
        erf = network.node("Erf", network.node("Div", inner, network.constant(np.sqrt(2))))
        gelu = network.node("Mul", inner, network.node("Add", erf, network.constant(1.0)))
        outer = network.dense(network.node("Mul", gelu, network.constant(0.5)), 4 * width, width)
        x = network.normalized(network.node("Add", outer, x), width)
    tokens: list[int | str | None] = ["batch", "sequence"]
    kinds = dict.fromkeys(("input_ids", "attention_mask"), (TensorProto.INT64, tokens))
    network.save(x, [*tokens, width], path, kinds)


def mixed(path: Path) -> None:
    """20 layers, of which some gain from integers (wide convolutions) and some lose (pools, softmax)."""
    network, width = _Builder(), 64
    x = network.node("Relu", network.conv("x", (3, width), 3, 2))
    for _ in range(4):
        x = network.node("Relu", network.conv(x, (width, width), 3))
        x = network.node("Tanh", network.node("Relu", network.conv(x, (width, width), 3)))
        x = network.node("Tanh", network.node("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4))
        x = network.node("Tanh", network.node("Softmax", x, axis=1))
    x = network.node("Flatten", network.node("GlobalAveragePool", x))
    inputs: dict[str, tuple[int, list[int | str | None]]] = {"x": (TensorProto.FLOAT, ["batch", *_SMALL[1:]])}
    network.save(network.node("Gemm", x, network.weight(10, width), transB=1), ["batch", 10], path, inputs)


def mixed_feeds() -> dict[str, npt.NDArray[np.float32]]:
    """One image for `mixed`."""
    return {"x": np.random.default_rng(1).standard_normal(_SMALL).astype(np.float32)}
