"""Hazards that constants show: masks, NaN, channels of very different size, dead channels, tiny scales."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnxq.graph.constants import constant_array, moved_tensor
from onnxq.graph.names import name_of
from onnxq.graph.tensors import drop_pages
from onnxq.graph.walk import nodes
from onnxq.stages.plan.entries import Candidate, FloatNode
from onnxq.types.diagnosis import Hazard

if TYPE_CHECKING:
    import onnx_ir as ir

_SPREAD = 64.0  # largest channel over the median one: six of eight bits lost to most channels under one scale
_MASK = -1e4  # and below; no weight is
_LIMIT = float(2**31 - 1)
_READS_MASKS = ("Add", "Where", "Sub", "Mul")
_ACTIVATION_STEP = 1 / 255  # scale of an activation between 0 and 1, where none was observed


@dataclass
class _Findings:
    """Names by hazard code."""

    names: dict[str, dict[str, None]] = field(default_factory=dict)

    def note(self, code: str, name: str) -> None:
        self.names.setdefault(code, {})[name] = None


_TEXTS = {
    "not-finite": (
        "weights that hold NaN or infinite values",
        "repair the model, or keep their nodes in float",
    ),
    "mask": (
        "operators that read the minus infinity of a mask",
        "nothing: masks are left out of ranges, and what would mix them with values stays in float",
    ),
    "channel-spread": (
        f"weights with channels {_SPREAD:g} times as large as the median channel",
        "keep one scale a channel (the default); where the target or format has one a tensor, keep them in float",
    ),
    "dead-channels": (
        "weights with channels of zeros only",
        "nothing: they get a scale of their own; pruning them in training would make the model smaller",
    ),
    "tiny-scale": (
        "biases that may not fit 32 bits on the scale of their channel's tiny weights",
        "nothing: the scale of such channels is raised until they fit, at a loss in weights that hardly matter",
    ),
}


def weight_hazards(prepared: ir.Model, examined: Iterable[Candidate | FloatNode]) -> Iterator[Hazard]:
    """Yield what constants show, reading one at a time.

    Args:
        prepared: the model in its normal form.
        examined: its nodes, as the planner sees them.
    """
    findings = _Findings()
    for entry in examined:
        if isinstance(entry, Candidate) and entry.weights:
            for slot in entry.weights:
                _look_at_weight(entry, slot, findings)
    for name, node in nodes(prepared):
        if node.op_type in _READS_MASKS and not node.domain and any(_is_mask(value) for value in node.inputs):
            findings.note("mask", name)
    for code, (text, advice) in _TEXTS.items():
        names = tuple(findings.names.get(code, ()))
        if names:
            yield Hazard(code=code, text=f"{text}: {len(names)}", advice=advice, where=names)


def _look_at_weight(entry: Candidate, slot: int, findings: _Findings) -> None:
    value = entry.node.inputs[slot]
    tensor = moved_tensor(value)
    name = name_of(value)
    if tensor is None or tensor.size == 0:
        return
    weight = tensor.numpy()
    if not np.isfinite(weight).all():
        findings.note("not-finite", name)
        return
    if entry.fact.channel_axis is None or weight.ndim < 2:
        return
    axis = entry.fact.channel_axis(entry.node, weight.ndim) % weight.ndim
    sizes = np.abs(weight).max(axis=tuple(other for other in range(weight.ndim) if other != axis))
    drop_pages(weight)  # one weight after the other is looked at: a model may be bigger than memory
    alive = sizes[sizes > 0]
    if alive.size < sizes.size:
        findings.note("dead-channels", name)
    if alive.size and alive.max() > _SPREAD * np.median(alive):
        findings.note("channel-spread", name)
    if entry.bias is not None:
        bias = constant_array(entry.node.inputs[entry.bias])
        if bias is not None and bias.shape == sizes.shape and _overflows(bias, sizes):
            findings.note("tiny-scale", entry.node.inputs[entry.bias].name or "")  # type: ignore[union-attr]


def _overflows(bias: npt.NDArray[Any], sizes: npt.NDArray[Any]) -> bool:
    """Return whether bias / (activation scale * weight scale) leaves int32 in a channel."""
    scale = np.where(sizes > 0, sizes.astype(np.float64) / 127, 1.0) * _ACTIVATION_STEP
    return bool((np.abs(bias.astype(np.float64)) > scale * _LIMIT).any())


def _is_mask(value: ir.Value | None) -> bool:
    array = constant_array(value)
    return array is not None and array.dtype.kind == "f" and array.size > 0 and bool((array <= _MASK).any())
