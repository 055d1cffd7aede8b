"""Networks of a known shape with random weights: what they compute means nothing, what they cost is what counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IMAGE = (1, 3, 224, 224)


class _Builder:
    """Appends convolutions to a graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._generator = np.random.default_rng(0)

    def weight(self, *shape: int) -> str:
        """Add a weight that keeps the variance, and return its name."""
        name = f"weight{len(self.weights)}"
        values = self._generator.standard_normal(shape, dtype=np.float32) / np.sqrt(np.prod(shape[1:]) / 2)
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

    def save(self, output: str, shape: list[int | str | None], path: Path) -> None:
        """Write the model."""
        graph = helper.make_graph(
            self.nodes,
            path.stem,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *IMAGE[1:]])],
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
