"""From an exported model to a quantized one, by the public function alone, and run with the optimizer off and on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxq
from onnxq.runtime.session import run_model
from onnxq.types.plan import Action
from onnxq.types.report import Report

FORMATS = ["qdq", "qoperator", "dynamic", "weight-only"]
EIGHT_BITS = {"weight-only": {"weights": "int8,symmetric,per-channel"}}
Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Result:
    """What came out: the quantized model, its report, and the worst SQNR in dB with the optimizer off and on."""

    model: onnx.ModelProto
    report: Report
    sqnr: tuple[float, float]

    def reasons(self) -> dict[str, str]:
        return {entry.node: entry.reason.code for entry in self.report.plan.decisions}

    def quantized(self) -> list[str]:
        """Nodes that are quantized."""
        return [entry.node for entry in self.report.plan.decisions if entry.action is Action.QUANTIZE]

    def at_least(self, decibels: float) -> bool:
        return min(self.sqnr) >= decibels


def quantize(
    proto: onnx.ModelProto,
    feeds: Feeds | Sequence[Feeds],
    form: str,
    *,
    reference: onnx.ModelProto | None = None,
    **options: Any,
) -> Result:
    """Quantize wherever there is a kernel, weights in 8 bits, and compare with the model, or with `reference`."""
    before = proto.SerializeToString()
    batches = [feeds] if isinstance(feeds, Mapping) else list(feeds)
    how = {"placement": "everywhere", "guard": False, "check": False, "allow_empty": True}
    report = onnxq.quantize(proto, calibration=batches, format=form, **how | EIGHT_BITS.get(form, {}) | options)
    assert proto.SerializeToString() == before
    made = report.model
    off, on = (min(_sqnr(reference or proto, made, batch, optimize) for batch in batches) for optimize in (False, True))
    return Result(model=made, report=report, sqnr=(off, on))


def _sqnr(before: onnx.ModelProto, after: onnx.ModelProto, feeds: Feeds, optimize: bool) -> float:
    expected, found = run_model(before, dict(feeds)), run_model(after, dict(feeds), optimize=optimize)
    assert list(expected) == list(found)
    return min((_of(reference, found[name]) for name, reference in expected.items()), default=float("inf"))


def _of(reference: Any, found: Any) -> float:
    if isinstance(reference, list):
        assert len(reference) == len(found)
        return min((_of(one, other) for one, other in zip(reference, found, strict=True)), default=float("inf"))
    assert reference.dtype == found.dtype
    assert reference.shape == found.shape
    if reference.dtype.kind != "f":
        return float("inf") if np.array_equal(reference, found) else -float("inf")
    assert np.array_equal(np.isfinite(reference), np.isfinite(found))
    sane = np.isfinite(reference)
    signal = np.sum(np.square(reference[sane], dtype=np.float64))
    noise = np.sum(np.square(reference[sane].astype(np.float64) - found[sane]))
    return float(10 * np.log10(signal / noise)) if noise else float("inf")


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def with_weights(model: str, **weights: np.ndarray) -> onnx.ModelProto:
    """Return the model that ONNX text describes, with initializers."""
    proto = onnx.parser.parse_model(model)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return proto
