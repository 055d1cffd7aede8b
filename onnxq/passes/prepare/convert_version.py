"""Raise the opset."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from onnxq.passes import register_pass
from onnxq.passes.outcome import Outcome
from onnxq.passes.verifier import checker_complaint


@register_pass("convert-version", preserves_semantics=True)
class ConvertVersion(ir.passes.FunctionalPass):
    """Raise the ONNX opset to a given one if it is lower; a model that cannot be converted stays as it is.

    Guards: below opset 18 the stock pass only relabels the model unless it may fall back on ONNX's own converter; that
    one gives up silently, leaves subgraphs as they were, and forgets types and metadata of inputs and outputs. So the
    result is checked, and dropped with a warning if it is not right.
    """

    def __init__(self, opset: int = 13) -> None:
        super().__init__()
        self.opset = opset

    def call(self, model: ir.Model) -> Outcome:
        """Convert a copy, check it, and return it; else the copy of the original and a warning."""
        found = model.opset_imports.get("")
        if found is None or found >= self.opset:
            return Outcome(model.clone(), modified=False)
        converted = model.clone()
        complaint = _convert(converted, self.opset) or _flaw(model, converted)
        if complaint is None:
            return Outcome(converted, modified=True)
        warning = f"opset {found} could not be raised to {self.opset} and is kept: {complaint}"
        return Outcome(model.clone(), modified=False, warnings=(warning,))


def _convert(model: ir.Model, opset: int) -> str | None:
    """Convert `model` in place; say why it failed, None if it did not."""
    from onnxscript.version_converter import ConvertVersionPass

    try:
        ConvertVersionPass(opset, fallback=True)(model)
    except Exception as error:  # the two converters raise whatever comes up
        return str(error).strip().partition("\n")[0] or type(error).__name__
    if model.opset_imports.get("") != opset:
        return "no converter for one of its operators"
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    model.ir_version = max(model.ir_version, onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True))
    return None


def _flaw(before: ir.Model, after: ir.Model) -> str | None:
    """Say what is wrong with a conversion, None if nothing is; gives `after` the inputs' and outputs' old types."""
    for old, new in ((before.graph.inputs, after.graph.inputs), (before.graph.outputs, after.graph.outputs)):
        if [value.name for value in old] != [value.name for value in new]:
            return "the converter changed its inputs or outputs"
        for kept, value in zip(old, new, strict=True):
            value.type, value.shape, value.doc_string = kept.type, kept.shape, kept.doc_string
            value.metadata_props.update(kept.metadata_props)
    if checker_complaint(before) is None:
        complaint = checker_complaint(after)
        if complaint is not None:
            return f"the converter's result is not valid ({complaint})"
    return None
