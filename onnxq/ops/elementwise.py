"""Arithmetic on two tensors, element by element, with broadcasting."""

from __future__ import annotations

from onnxq.ops import OpFact, facts

for _op, _summary in {
    "Add": "sum",
    "Sub": "difference",
    "Mul": "product",
    "Div": "quotient",
    "Max": "maximum",
    "Min": "minimum",
}.items():
    facts.add(_op, OpFact(summary=_summary, activations=None))

facts.add("Where", OpFact(summary="choice between two tensors", activations=(1, 2)))
