"""Quantizing small models in tests: the stages between prepare and verify, on graphs written as ONNX text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnxq.data import open_source, signature
from onnxq.graph.text import model_from_text
from onnxq.runtime.readback import op_counts, optimized_graph
from onnxq.runtime.session import run_model
from onnxq.stages.calibrate import calibrate
from onnxq.stages.plan import examine, make_plan
from onnxq.stages.rewrite import rewrite
from onnxq.targets import targets
from onnxq.types.plan import Decision, Plan
from onnxq.types.recipe import Recipe
from onnxq.types.statistics import Statistics

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Quantized:
    """A float model, its plan, what was made of it, and the inputs it was calibrated on."""

    float_model: ir.Model
    plan: Plan
    model: ir.Model
    feeds: Feeds

    def decision(self, node: str) -> Decision:
        return next(entry for entry in self.plan.decisions if entry.node == node)

    def reasons(self) -> dict[str, str]:
        return {entry.node: entry.reason.code for entry in self.plan.decisions}

    def kernels(self) -> dict[str, int]:
        counts = op_counts(optimized_graph(self.model, layout=False))
        return {name.rpartition("::")[2]: count for name, count in counts.items()}

    def sqnr(self, *, optimize: bool) -> float:
        """Worst SQNR in dB over the outputs, in float64."""
        expected = run_model(self.float_model, dict(self.feeds))
        actual = run_model(self.model, dict(self.feeds), optimize=optimize)
        worst = np.inf
        for name, reference in expected.items():
            signal = np.sum(np.square(reference, dtype=np.float64))
            noise = np.sum(np.square(reference.astype(np.float64) - actual[name]))
            worst = min(worst, 10 * np.log10(signal / noise) if noise else np.inf)
        return float(worst)


def plan_for(model: ir.Model, feeds: Feeds, **options: Any) -> Plan:
    return plan_with_statistics(model, feeds, Recipe.parse(options))[0]


def plan_with_statistics(model: ir.Model, feeds: Feeds, recipe: Recipe) -> tuple[Plan, Statistics]:
    target = targets.get(recipe.target)
    examined = examine(model, recipe, target)
    statistics = calibrate(
        model,
        examined.observed,
        open_source([dict(feeds)], signature(model)),
        channel_axes={name: each.axis for name, each in examined.features.items()},
        products=[name for name, each in examined.features.items() if each.products],
    )
    return make_plan(examined, statistics), statistics


def quantize_text(text: str, feeds: Feeds | None = None, **options: Any) -> Quantized:
    """Quantize the model that ONNX text describes; inputs are N(0, 1) unless given."""
    return quantize_model(model_from_text(text), feeds, **options)


def quantize_model(model: ir.Model, feeds: Feeds | None = None, **options: Any) -> Quantized:
    """Quantize a prepared model; inputs are N(0, 1) unless given."""
    rng, given = np.random.default_rng(1), dict(feeds or {})
    for value in model.graph.inputs:
        if value.name not in given:
            given[value.name] = rng.standard_normal([int(dim) for dim in value.shape]).astype(np.float32)
    plan, statistics = plan_with_statistics(model, given, Recipe.parse(options))
    quantized, _ = rewrite(model, plan, statistics=statistics)
    onnx.checker.check_model(ir.to_proto(quantized), full_check=True)
    return Quantized(model, plan, quantized, given)


def text(body: str, inputs: str, outputs: str, weights: str = "", opset: int = 17) -> str:
    """Return ONNX text of a model called g."""
    return (
        f'<ir_version: 9, opset_import: ["" : {opset}, "com.microsoft" : 1]>\n'
        f"g ({inputs}) => ({outputs})\n<{weights}>\n{{ {body} }}"
    )
