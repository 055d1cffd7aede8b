"""A model of several layers, and a clock that says what each operator takes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from onnxq.data import open_source, signature
from onnxq.graph.walk import top_level
from onnxq.runtime.timing import RaceTimes
from onnxq.stages.calibrate import calibrate
from onnxq.stages.plan import examine, make_plan
from onnxq.stages.rewrite import rewrite
from onnxq.targets import targets
from onnxq.tuning.draft import Draft
from onnxq.types.recipe import Recipe

# Three regions: Tanh runs in float and parts them.
TEXT = """
<ir_version: 9, opset_import: ["" : 17]>
g (float[8,16] x) => (float[8,16] y)
<float[16,16] w1, float[16,16] w2, float[16,32] w3, float[32,16] w4>
{
  [m1] a = MatMul (x, w1)  [t1] ta = Tanh (a)
  [m2] b = MatMul (ta, w2)  [t2] tb = Tanh (b)
  [m3] c = MatMul (tb, w3)  [m4] y = MatMul (c, w4)
}
"""


@dataclass
class Workshop:
    """A prepared model, and drafts of it."""

    model: ir.Model
    feeds: Mapping[str, np.ndarray]
    made: list[Draft] = field(default_factory=list)

    def __call__(self, recipe: Recipe) -> Draft:
        target = targets.get(recipe.target)
        source = open_source([dict(self.feeds)], signature(self.model))
        examined = examine(self.model, recipe, target)
        plan = make_plan(examined, calibrate(self.model, examined.observed, source))
        model, records = rewrite(self.model, plan)
        self.made.append(Draft(recipe=recipe, plan=plan, model=model, records=records))
        return self.made[-1]

    def reasons(self, draft: Draft) -> dict[str, str]:
        return {entry.node: entry.reason.code for entry in draft.plan.decisions}


@dataclass
class Clock:
    """Times models by a price for each node, in float and quantized, at any thread count; counts the races.

    prices: node -> (float, quantized) milliseconds. overhead: of each QuantizeLinear. noise: relative.
    """

    model: ir.Model
    prices: Mapping[str, tuple[float, float]]
    overhead: float = 0.0
    noise: float = 0.0
    at: Callable[[int], float] = lambda threads: 1.0
    races: list[int] = field(default_factory=list)

    def race(self, models: Sequence[ir.Model], threads: int, budget: float | None = None) -> RaceTimes:
        self.races.append(threads)
        once = np.array([sum(self.times(model, threads).values()) for model in models]) / 1e6
        return RaceTimes(seconds=once * (1 + self.noise * np.arange(5))[:, None])

    def times(self, model: ir.Model, threads: int) -> dict[str, float]:
        spent = {}
        for path, node in top_level(model):
            if path in self.prices:
                quantized = any(
                    value is not None
                    and value.producer() is not None
                    and value.producer().op_type == "DequantizeLinear"
                    for value in node.inputs
                )
                milliseconds = self.prices[path][quantized] * (self.at(threads) if quantized else 1.0)
                spent[path] = 1e3 * (milliseconds + (self.overhead if quantized else 0.0))
        return spent
