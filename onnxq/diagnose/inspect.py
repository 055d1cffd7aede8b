"""inspect: Model -> Inspection. Reads only; nothing is run."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from onnxq.graph.tensors import tensors
from onnxq.graph.walk import nodes
from onnxq.ops import op_key
from onnxq.stages.plan import Examined
from onnxq.stages.plan.entries import Candidate
from onnxq.stages.plan.placement import absorbable
from onnxq.types.inspection import Inspection, Tensor

if TYPE_CHECKING:
    import onnx_ir as ir


def inspect(model: ir.Model, examined: Examined, warnings: tuple[str, ...]) -> Inspection:
    """Describe a model.

    Args:
        model: as loaded.
        examined: its normal form, and what could be quantized in it.
        warnings: of the stages before.
    """
    entries = examined.entries
    absorbed = {clamp.name for clamp, _ in absorbable(entries)}
    initializers = {value.name for value in model.graph.initializers.values()}
    weights: dict[str, tuple[int, int, int]] = {}
    for _, tensor in tensors(model):
        count, elements, size = weights.get(tensor.dtype.name.lower(), (0, 0, 0))
        weights[tensor.dtype.name.lower()] = (count + 1, elements + tensor.size, size + tensor.nbytes)
    return Inspection(
        ir_version=model.ir_version or 0,
        opsets=dict(sorted(model.opset_imports.items())),
        producer=" ".join(part for part in (model.producer_name, model.producer_version) if part),
        inputs=tuple(_tensor(value) for value in model.graph.inputs if value.name not in initializers),
        outputs=tuple(_tensor(value) for value in model.graph.outputs),
        operators=_counted(op_key(node) for _, node in nodes(model)),
        weights=weights,
        target=examined.target.name,
        nodes=len(entries),
        candidates=_counted(entry.op for entry in entries if isinstance(entry, Candidate) or entry.name in absorbed),
        kept=_counted(
            entry.reason.code for entry in entries if not isinstance(entry, Candidate) and entry.name not in absorbed
        ),
        warnings=warnings,
    )


def _counted(words: object) -> dict[str, int]:
    return dict(sorted(Counter(words).items(), key=lambda pair: (-pair[1], pair[0])))  # type: ignore[call-overload]


def _tensor(value: ir.Value) -> Tensor:
    shape = None
    if value.shape is not None:
        shape = tuple(dim if isinstance(dim, int) else dim.value or "?" for dim in value.shape)
    return Tensor(
        name=value.name or "",
        dtype="?" if value.dtype is None else value.dtype.name.lower(),
        shape=shape,
    )
