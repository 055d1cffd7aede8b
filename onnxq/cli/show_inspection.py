"""An inspection as tables."""

from __future__ import annotations

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from onnxq.cli.table import table
from onnxq.cli.terminal import show
from onnxq.types.inspection import Inspection, Tensor


def show_inspection(inspection: Inspection) -> None:
    """Print what is in a model."""
    show(_facts(inspection), "", table(["operator", "nodes>"], inspection.operators.items()))
    rows = [
        (dtype, count, f"{elements:,}", decimal(size)) for dtype, (count, elements, size) in inspection.weights.items()
    ]
    show("", table(["weights of type", "tensors>", "elements>", "size>"], rows))
    able, nodes = sum(inspection.candidates.values()), inspection.nodes
    show("", f"{able} of the {nodes} nodes of the prepared model could run on integers on target {inspection.target}")
    if inspection.candidates:
        show("", table(["could run on integers", "nodes>"], inspection.candidates.items()))
    if inspection.kept:
        show("", table(["stays in float because", "nodes>"], inspection.kept.items()))


def _facts(inspection: Inspection) -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("producer", inspection.producer or "unknown")
    facts.add_row("IR version", str(inspection.ir_version))
    facts.add_row(
        "opset", ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in inspection.opsets.items())
    )
    for word, tensors in (("input", inspection.inputs), ("output", inspection.outputs)):
        for tensor in tensors:
            facts.add_row(word, _tensor(tensor))
    return facts


def _tensor(tensor: Tensor) -> Text:
    shape = "any shape" if tensor.shape is None else f"[{', '.join(map(str, tensor.shape))}]"
    return Text(f"{tensor.name}: {tensor.dtype} {shape}")
