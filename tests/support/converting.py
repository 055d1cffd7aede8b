"""Imported quantized models: making them from text, writing them in another format, and counting their operators."""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx
import onnx_ir as ir
import onnxq
from onnxq.graph.text import model_from_text


def proto(text: str) -> onnx.ModelProto:
    return ir.to_proto(model_from_text(text))


def written(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    """Quantize without a check; without data nothing but what came can be written. The result is valid."""
    report = onnxq.quantize(model, check=False, **options)
    onnx.checker.check_model(report.model, full_check=True)
    return report.model


def ops(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)
