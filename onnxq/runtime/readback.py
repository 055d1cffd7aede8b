"""The runtime's optimized graph of a model, read back and counted."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from onnxq.runtime.session import open_session

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

Q_OPS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
DQ_OPS = frozenset({"DequantizeLinear"})

# These rewrite float and integer convolutions to blocked and channels-last layouts, with new names all over.
_LAYOUT = ("NchwcTransformer", "NhwcTransformer")
WEIGHTS_BESIDE = {
    "session.optimized_model_external_initializers_file_name": "optimized.data",
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
}


def optimized_graph(
    model: ir.Model | onnx.ModelProto | bytes | Path, *, threads: int = 1, layout: bool = True
) -> ir.Model:
    """Return the graph that the runtime runs after all of its optimizations.

    Weights over 1 KB have type and shape, but no data: the graph is for reading, not for running.

    Args:
        model: see `open_session`.
        threads: intra-op threads.
        layout: False: without the changes of layout (blocked or channels-last convolutions). Which operators are fused
            is the same without them, and values keep the names they have in the model.

    Raises:
        ModelError: the runtime cannot load the model.
    """
    import onnx_ir as ir

    with tempfile.TemporaryDirectory(prefix="onnxq-") as folder:
        path = Path(folder) / "optimized.onnx"
        open_session(
            model,
            threads=threads,
            optimized_path=path,
            config=WEIGHTS_BESIDE,
            disabled=() if layout else _LAYOUT,
        )
        return ir.load(path)


def op_counts(model: ir.Model) -> dict[str, int]:
    """Count the nodes by operator (`Conv`, `com.microsoft::QLinearAdd`), subgraphs included, most frequent first."""
    counts = Counter(op_name(node) for graph in model.graphs() for node in graph)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def op_name(node: ir.Node) -> str:
    """Return `domain::op_type`, the domain left out for the ONNX operators."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def remaining(optimized: ir.Model) -> dict[str, tuple[str, ...]]:
    """Return the quantize and dequantize nodes that are still run: operator -> names of their outputs."""
    outputs: dict[str, list[str]] = {}
    for graph in optimized.graphs():
        for node in graph:
            if node.op_type in Q_OPS | DQ_OPS:
                outputs.setdefault(op_name(node), []).append(node.outputs[0].name or "")
    return {op: tuple(names) for op, names in sorted(outputs.items())}
