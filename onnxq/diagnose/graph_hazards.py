"""Hazards that the graph shows: control flow, foreign operators, types, declarations, what is quantized already."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnxq.graph.hoist import why_hidden
from onnxq.graph.walk import nodes
from onnxq.stages.plan.already_quantized import is_quantized
from onnxq.types.diagnosis import Hazard

if TYPE_CHECKING:
    import onnx_ir as ir

_KNOWN_DOMAINS = ("", "ai.onnx", "com.microsoft", "ai.onnx.ml")
_NEEDED_OPSET = 13


def graph_hazards(model: ir.Model, prepared: ir.Model) -> Iterator[Hazard]:
    """Yield what the graph shows.

    Args:
        model: as loaded. prepared: its normal form.
    """
    named = list(nodes(prepared))
    yield from _quantized(named)
    yield from _control_flow(prepared, named)
    yield from _custom(named)
    yield from _types(named)
    yield from _shapes(model, prepared)
    yield from _interface(prepared)


def _quantized(named: list[tuple[str, ir.Node]]) -> Iterator[Hazard]:
    found = [name for name, node in named if is_quantized(node) is not None]
    if found:
        yield Hazard(
            code="already-quantized",
            text=f"nodes of parts that are quantized already: {len(found)}",
            advice="quantize the float model it was made from; here only what is still in float can be quantized, and "
            "what is on codes be written in another format",
            where=tuple(found),
        )


def _control_flow(prepared: ir.Model, named: list[tuple[str, ir.Node]]) -> Iterator[Hazard]:
    found = [name for name, node in named if node.op_type in ("If", "Loop", "Scan") and not node.domain]
    if found:
        yield Hazard(
            code="control-flow",
            text=f"operators with bodies of their own: {len(found)}",
            advice="calibrate with samples that take every branch: what never ran stays in float",
            where=tuple(found),
        )
    hidden = why_hidden(prepared)
    inside = [name for name, node in named if node.graph in hidden]
    if inside:
        yield Hazard(
            code="hidden",
            text=f"{next(iter(hidden.values()))}: {len(inside)} nodes",
            advice="format dynamic or weight-only quantizes them without ranges",
            where=tuple(inside),
        )


def _custom(named: list[tuple[str, ir.Node]]) -> Iterator[Hazard]:
    found = {name: node.domain for name, node in named if node.domain not in _KNOWN_DOMAINS}
    if found:
        domains = ", ".join(sorted(set(found.values())))
        yield Hazard(
            code="custom-operator",
            text=f"operators of domains that are not known here ({domains}): {len(found)}",
            advice="they stay as they are; to run the model at all, onnxruntime needs their library",
            where=tuple(found),
        )


def _types(named: list[tuple[str, ir.Node]]) -> Iterator[Hazard]:
    found: dict[str, list[str]] = {}
    for name, node in named:
        types = {value.dtype.name.lower() for value in node.outputs if value.dtype is not None}
        for kind in types & {"float16", "bfloat16", "double"}:
            found.setdefault(kind, []).append(name)
    for kind, names in found.items():
        yield Hazard(
            code=kind,
            text=f"nodes that compute in {kind}, where only float32 is quantized: {len(names)}",
            advice="export in float32; `--float-type float16` shortens what stays in float afterwards",
            where=tuple(names),
        )


def _shapes(model: ir.Model, prepared: ir.Model) -> Iterator[Hazard]:
    from onnxq.passes.prepare.infer_shapes import InferShapes

    copy = prepared.clone()
    for value in copy.graph.outputs:  # preparation leaves them as they were declared
        value.shape = None
    InferShapes()(copy)
    inferred = {value.name: value for _, node in nodes(copy) for value in node.outputs}
    wrong = []
    for value in (*model.graph.outputs, *(value for node in model.graph for value in node.outputs)):
        other = inferred.get(value.name)
        if value.shape is None or other is None or other.shape is None:
            continue
        pairs = zip(value.shape, other.shape, strict=False)
        if len(value.shape) != len(other.shape) or any(
            isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs
        ):
            wrong.append(value.name or "")
    if wrong:
        yield Hazard(
            code="wrong-shape",
            text=f"values declared with another shape than they have: {len(wrong)}",
            advice="shapes are inferred anew and the model goes on; correct the exporter, since other tools trust them",
            where=tuple(dict.fromkeys(wrong)),
        )


def _interface(prepared: ir.Model) -> Iterator[Hazard]:
    opset = prepared.opset_imports.get("")
    if opset is not None and opset < _NEEDED_OPSET:
        yield Hazard(
            code="old-opset",
            text=f"opset {opset} could not be raised to {_NEEDED_OPSET}",
            advice="weights get one scale each instead of one a channel; export with a newer opset",
            where=(),
        )
    found = [value.name or "" for value in prepared.graph.inputs if value.is_initializer()]
    if found:
        yield Hazard(
            code="overridable-weights",
            text=f"initializers that are graph inputs too, which callers may override: {len(found)}",
            advice="take them off the inputs: --passes with unlist-initializers{all=true}",
            where=tuple(found),
        )
