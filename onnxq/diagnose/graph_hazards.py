"""Hazards that the graph shows: faults of the runtime, control flow, foreign operators, types, declarations."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from onnxq.evaluate.faults import standing
from onnxq.graph.hoist import why_hidden
from onnxq.graph.walk import nodes
from onnxq.passes.read.arithmetic import fake_quantization
from onnxq.stages.plan.already_quantized import is_quantized
from onnxq.targets import Target
from onnxq.targets.faults import faults
from onnxq.types.diagnosis import Hazard

if TYPE_CHECKING:
    import onnx_ir as ir

_KNOWN_DOMAINS = ("", "ai.onnx", "com.microsoft", "ai.onnx.ml")
_NEEDED_OPSET = 13


def graph_hazards(model: ir.Model, prepared: ir.Model, target: Target) -> Iterator[Hazard]:
    """Yield what the graph shows.

    Args:
        model: as loaded.
        prepared: its normal form.
        target: whose runtime may have faults that nodes meet.
    """
    for name, where in standing(prepared, target).items():
        fault = faults.get(name)
        text = f"{fault}: {len(where)} nodes"
        yield Hazard(code="runtime-fault", text=text, advice=fault.advice, where=where)
    named = list(nodes(prepared))
    yield from _quantized(named)
    yield from _fake_quantized(prepared)
    yield from _control_flow(prepared, named)
    yield from _custom(named)
    yield from _types(named)
    yield from _shapes(model, prepared)
    yield from _interface(prepared)


def _quantized(named: list[tuple[str, ir.Node]]) -> Iterator[Hazard]:
    quantized = [name for name, node in named if is_quantized(node) is not None]
    yield from _hazard(
        "already-quantized",
        quantized,
        text="nodes of parts that are quantized already",
        advice="quantize the float model it was made from; here only what is still in float can be quantized, and "
        "what is quantized be written in another format",
    )


def _fake_quantized(prepared: ir.Model) -> Iterator[Hazard]:
    yield from _hazard(
        "fake-quantization",
        fake_quantization(prepared),
        text="Round nodes between a scale and its inverse, which look like quantization written out as arithmetic",
        advice="export with QuantizeLinear and DequantizeLinear: these scales are not read, and what is quantized here "
        "gets others on top",
    )


def _control_flow(prepared: ir.Model, named: list[tuple[str, ir.Node]]) -> Iterator[Hazard]:
    branching = [name for name, node in named if node.op_type in ("If", "Loop", "Scan") and not node.domain]
    yield from _hazard(
        "control-flow",
        branching,
        text="operators with bodies of their own",
        advice="calibrate with samples that take every branch: what never ran stays in float",
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
    foreign = {name: node.domain for name, node in named if node.domain not in _KNOWN_DOMAINS}
    yield from _hazard(
        "custom-operator",
        foreign,
        text=f"operators of domains that are not known here ({', '.join(sorted(set(foreign.values())))})",
        advice="they stay as they are; to run the model at all, onnxruntime needs their library",
    )


def _types(named: list[tuple[str, ir.Node]]) -> Iterator[Hazard]:
    by_type: dict[str, list[str]] = {}
    for name, node in named:
        types = {value.dtype.name.lower() for value in node.outputs if value.dtype is not None}
        for kind in types & {"float16", "bfloat16", "double"}:
            by_type.setdefault(kind, []).append(name)
    for kind, names in by_type.items():
        yield from _hazard(
            kind,
            names,
            text=f"nodes that compute in {kind}, where only float32 is quantized",
            advice="export in float32; `--float-type float16` shortens what stays in float afterwards",
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
            advice="shapes are inferred again; correct the exporter, since other tools trust the declarations",
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
    overridable = [value.name or "" for value in prepared.graph.inputs if value.is_initializer()]
    yield from _hazard(
        "overridable-weights",
        overridable,
        text="initializers that are graph inputs too, which callers may override",
        advice="take them off the inputs: --passes with unlist-initializers{all=true}",
    )


def _hazard(code: str, where: Collection[str], *, text: str, advice: str) -> Iterator[Hazard]:
    """Yield a hazard and how many places have it, unless there are none."""
    if where:
        yield Hazard(code=code, text=f"{text}: {len(where)}", advice=advice, where=tuple(where))
