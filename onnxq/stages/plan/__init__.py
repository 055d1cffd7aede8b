"""plan: Model, statistics, recipe, target -> Plan. Pure: reads, never edits. One decision and one reason a node."""

from __future__ import annotations

from onnxq.stages.plan.candidates import needed_opset
from onnxq.stages.plan.choose_format import choose_format
from onnxq.stages.plan.decide import make_imported_plan, make_plan, needed_tensors, uses_histograms
from onnxq.stages.plan.examined import Examined, examine
from onnxq.stages.plan.sizes import Sizes
from onnxq.stages.plan.weight_inputs import Features, missing

__all__ = [
    "Examined",
    "Features",
    "Sizes",
    "choose_format",
    "examine",
    "make_imported_plan",
    "make_plan",
    "missing",
    "needed_opset",
    "needed_tensors",
    "uses_histograms",
]
