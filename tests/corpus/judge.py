"""One graph through one format: what came of it."""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxq
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxq.errors import ModelError, OnnxqError, PassError, PlanError
from onnxq.files.load import load
from onnxq.graph.walk import scopes
from onnxq.numerics.metrics import ErrorSums
from onnxq.runtime.session import open_session
from onnxq.types.float_type import FloatType
from tests.corpus.formats import FormatCase

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_SLACK_DB = 3.0  # by which kernels may be worse than rounding alone where little is left of an output


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one graph in one format.

    Attributes:
        kind: quantized; coarse (quantized, and an output below the floor by rounding alone); kept (nothing quantized,
            with reasons); refused (an error of ours); unserved (the runtime does not load or run the float model); or
            failed.
        detail: in words, for kinds other than quantized. reasons: codes of the nodes kept, counted.
        sqnr: worst output as served, dB.
    """

    kind: str
    detail: str = ""
    reasons: dict[str, int] = field(default_factory=dict)
    sqnr: float = float("inf")


class Judge:
    """One graph: its float results, against which every format is held."""

    def __init__(self, model: Any, feeds: dict[str, Any]) -> None:
        self.model, self.feeds = model, feeds
        self.proto = onnx.load(model, load_external_data=False) if isinstance(model, Path) else model
        self.unserved = self.complaint = ""
        self.exact = not (RANDOM & set(_ops(self.proto)))
        try:
            load(model)
        except ModelError:  # some of these would keep the runtime busy for years
            return
        try:
            self.plain = open_session(model, optimize=False).run(feeds)
            self.served = open_session(model).run(feeds)
        except ModelError as error:
            self.unserved = str(error)
        self.complaint = _complaint(self.proto)

    def judge(self, fmt: FormatCase) -> Outcome:
        """Quantize, check and run."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                report = onnxq.quantize(
                    self.model, calibration=[self.feeds], check=False, allow_empty=True, **fmt.options
                )
        except (PassError, PlanError) as error:  # the request was taken, and could not be carried out
            return Outcome(kind="failed", detail=str(error))
        except OnnxqError as error:
            return Outcome(kind="unserved" if self.unserved else "refused", detail=str(error))
        except Exception:
            return Outcome(kind="failed", detail=f"exception: {traceback.format_exc(limit=-4)}")
        decisions = report.plan.decisions
        if any(not (decision.reason.code and decision.reason.text) for decision in decisions):
            return Outcome(kind="failed", detail="a node without a reason")
        if not decisions and len(self.proto.graph.node) and not report.passes:
            return Outcome(kind="failed", detail="no decisions")
        quantized = any(decision.action == "quantize" for decision in decisions) or bool(report.plan.constants)
        reasons = Counter(decision.reason.code for decision in decisions if decision.action == "keep")
        proto = report.model if isinstance(report.model, onnx.ModelProto) else ir.to_proto(report.model)
        complaint = None if self.complaint else _complaint(proto)
        if complaint:
            return Outcome(kind="failed", detail=f"invalid: {complaint}")
        if self.unserved:
            return Outcome(kind="unserved", detail=self.unserved)
        try:
            plain = open_session(report.model, optimize=False).run(self.feeds)
            served = open_session(report.model).run(self.feeds)
        except ModelError as error:
            return Outcome(kind="unserved" if self._fails_tidied() else "failed", detail=f"runtime: {error}")
        worst, kind, detail = float("inf"), "quantized" if quantized else "kept", ""
        if self.exact:
            floor = fmt.floor if quantized else 60.0
            # The runtime's optimizer breaks some float models: Pad and MaxPool become one that pads with -inf.
            references = {"plain": (self.plain,), "served": (self.served, self.plain)}
            for what, actual in (("plain", plain), ("served", served)):
                for name in self.plain:
                    found = max(_sqnr(each[name], actual[name]) for each in references[what])
                    worst = min(worst, found)
                    if found >= floor:
                        continue
                    rounding = self._rounding(report.plan, fmt, name) if quantized else 60.0
                    if found < rounding - _SLACK_DB or np.isnan(found):
                        text = f"{what} '{name}': {found:.1f} dB, rounding alone {rounding:.1f} dB"
                        return Outcome(kind="failed", detail=text, sqnr=found)
                    kind, detail = "coarse", f"'{name}': {found:.1f} dB"
        return Outcome(kind=kind, detail=detail, reasons=dict(reasons), sqnr=worst)

    def _fails_tidied(self) -> bool:
        """Whether the runtime does not load the float model either once what is unused is gone."""
        tidied = ir.from_proto(self.proto) if not isinstance(self.model, Path) else ir.load(self.model)
        RemoveUnusedNodesPass()(tidied)
        try:
            open_session(tidied).run(self.feeds)
        except ModelError:
            return True
        return False

    def _rounding(self, plan: Any, fmt: FormatCase, output: str) -> float:
        """dB that rounding alone leaves of an output, in float arithmetic."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rounded = onnxq.simulate(self.model, plan, calibration=[self.feeds], **fmt.options)
        if plan.constants:  # simulation leaves alone what stays in float, stored short or not
            rounded = ir.from_proto(rounded) if isinstance(rounded, onnx.ModelProto) else rounded
            for scope in scopes(rounded):
                for name, value in scope.initializers.items():
                    stored = plan.constants.get(name)
                    if stored is not None and stored.float_type is FloatType.FLOAT16:
                        array = value.const_value.numpy().astype(np.float16).astype(np.float32)
                        value.const_value = ir.tensor(array, name=name)
        return _sqnr(self.plain[output], open_session(rounded, optimize=False).run(self.feeds)[output])


def _sqnr(reference: Any, actual: Any) -> float:
    """dB of one output; structures are compared part by part, what is no number for equality."""
    if isinstance(reference, list):
        if not isinstance(actual, list) or len(actual) != len(reference):
            return float("-inf")
        return min((_sqnr(x, y) for x, y in zip(reference, actual, strict=True)), default=float("inf"))
    if reference is None or actual is None:
        return float("inf") if reference is actual else float("-inf")
    x, y = np.asarray(reference), np.asarray(actual)
    if x.shape != y.shape or x.dtype != y.dtype:
        return float("-inf")
    if x.dtype.kind in "fV" and x.dtype.names is None:
        comparison = ErrorSums()
        with np.errstate(all="ignore"):
            comparison.add(x, y)
        return float(comparison.sqnr_db)
    return (
        float("inf") if np.array_equal(x, y) else 200.0 if x.dtype.kind == "c" and np.allclose(x, y) else float("-inf")
    )


def _complaint(proto: onnx.ModelProto) -> str:
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ""


def _ops(proto: onnx.ModelProto) -> list[str]:
    found, todo = [], [proto.graph, *proto.functions]
    while todo:
        graph = todo.pop()
        for node in graph.node:
            trains = node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]
            found.append("Bernoulli" if trains else node.op_type)  # which is what a Dropout draws from in training
            for attribute in node.attribute:
                todo += [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
    return found
