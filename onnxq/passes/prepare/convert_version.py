"""Raise the opset."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from onnxq.graph.walk import scopes
from onnxq.passes import register_pass
from onnxq.passes.outcome import Outcome
from onnxq.passes.prepare._declared import forget_shapes
from onnxq.passes.prepare._resize import FIRST_WITH_MODES, keep_sampling
from onnxq.passes.verifier import checker_complaint

_FIRST_SCAN_WITHOUT_BATCH = 9


@register_pass("convert-version", preserves_semantics=True)
class ConvertVersion(ir.passes.FunctionalPass):
    """Raise the ONNX opset to a given one if it is lower; a model that cannot be converted stays as it is.

    Guards: below opset 18 the stock pass only relabels the model unless it may fall back on ONNX's own converter. That
    one crashes the process on an attribute of the wrong type, gives up with no more than a log line, stumbles over
    stale shapes, relabels Scan and samples differently in a Resize from before opset 11, and forgets doc strings and
    metadata of inputs and outputs. So the model is checked first, shapes are put aside, the modes of Resize written
    out, and the result is checked, and dropped with a warning if it is not right.
    """

    def __init__(self, opset: int = 13) -> None:
        super().__init__()
        self.opset = opset

    def call(self, model: ir.Model) -> Outcome:
        """Convert a copy, check it, and return it; else the copy of the original and a warning."""
        opset = model.opset_imports.get("")
        if opset is None or opset >= self.opset:
            return Outcome(model.clone(), modified=False)
        converted = model.clone()
        complaint = checker_complaint(model) or _hindrance(model, opset) or _convert(converted, self.opset)
        if complaint is None and opset < FIRST_WITH_MODES:
            complaint = keep_sampling(converted, only_enlarges=not _has(model, "Resize"))
        complaint = complaint or _flaw(model, converted)
        if complaint is None:
            return Outcome(converted, modified=True)
        warning = f"opset {opset} could not be raised to {self.opset} and is kept: {complaint}"
        return Outcome(model.clone(), modified=False, warnings=(warning,))


def _hindrance(model: ir.Model, opset: int) -> str | None:
    """Say what the converter, or the runtime with its result, would get wrong; None if nothing is known."""
    if opset < _FIRST_SCAN_WITHOUT_BATCH and _has(model, "Scan"):
        return "a Scan of opset 8 has a batch axis, which later ones have not"
    return None


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    return (node for scope in scopes(model) for node in scope)


def _has(model: ir.Model, op_type: str) -> bool:
    return any(node.op_type == op_type and not node.domain for node in _nodes(model))


def _convert(model: ir.Model, opset: int) -> str | None:
    """Convert `model` in place; return why it failed, None if it did not."""
    from onnxscript.version_converter import ConvertVersionPass

    outputs = {value: (value.shape, value.type) for value in model.graph.outputs}
    forget_shapes(model)
    for value, (shape, kind) in outputs.items():
        value.shape, value.type = shape, kind
    with _Listener("onnxscript.version_converter") as listener:
        try:
            ConvertVersionPass(opset, fallback=True)(model)
        except Exception as error:  # the two converters raise whatever comes up
            return _first_line(error)
    if model.opset_imports.get("") != opset:
        return listener.cause or "no converter for one of its operators"
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    model.ir_version = max(model.ir_version, onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True))
    return None


class _Listener(logging.Handler):
    """Hears the exception that the stock pass only logs."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.cause: str | None = None
        self._logger = logging.getLogger(name)

    def __enter__(self) -> _Listener:
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first line of the exception."""
        if record.exc_info and record.exc_info[1] is not None:
            self.cause = _first_line(record.exc_info[1])


def _first_line(error: BaseException) -> str:
    """Return the first line of a message, without the place in the C++ source that an assertion puts before it."""
    line = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    return re.sub(r"^/\S+\.(cc|h):\d+: \w+: Assertion .* failed:? ?", "", line) or line


def _flaw(before: ir.Model, after: ir.Model) -> str | None:
    """Return what is wrong with a conversion, None if nothing is; gives `after` the inputs' and outputs' old types."""
    for old, new in ((before.graph.inputs, after.graph.inputs), (before.graph.outputs, after.graph.outputs)):
        if [value.name for value in old] != [value.name for value in new]:
            return "the converter changed its inputs or outputs"
        for kept, value in zip(old, new, strict=True):
            value.type, value.shape, value.doc_string = kept.type, kept.shape, kept.doc_string
            value.metadata_props.update(kept.metadata_props)
    complaint = checker_complaint(after)
    return None if complaint is None else f"the converter's result is not valid ({complaint})"
