"""probe: prove rows of targets, their kernels and whether their sums saturate, by running one-operator models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

from onnxq.errors import ModelError
from onnxq.evaluate.faults import present
from onnxq.graph.text import model_from_text
from onnxq.runtime.mapping import runs_as
from onnxq.runtime.readback import DQ_OPS, op_counts, optimized_graph
from onnxq.runtime.session import run_model
from onnxq.stages.plan import examine, make_plan
from onnxq.stages.rewrite import rewrite
from onnxq.targets import Row, Target
from onnxq.targets.faults import met
from onnxq.targets.pair_sums import PRODUCTS
from onnxq.types.format import Format
from onnxq.types.plan import Action
from onnxq.types.recipe import Recipe
from onnxq.types.scheme import PerChannel, PerTensor, QuantType
from onnxq.types.statistics import Statistics, TensorStatistics

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResult:
    """What the runtime did with one row for one pair of types.

    Attributes:
        op, form, activations, weights: what was probed; weights None for operators without.
        expected: kernel that the row names.
        found: what really ran.
        faults: of the runtime, known ones that keep it from being so: plans go around them.
    """

    op: str
    form: Format
    activations: QuantType | None
    weights: QuantType | None
    expected: str
    found: str
    faults: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the row is true here, or plans know why not."""
        return self.expected == self.found or bool(self.faults)


def probe(target: Target) -> Iterator[ProbeResult]:
    """Prove every row of a target, for each pair of types that the row names, on the installed runtime."""
    for row in target.rows:
        fmt = Format.QDQ if Format.QDQ in row.formats else min(row.formats)
        for activations, weights in product(sorted(row.activations) or (None,), sorted(row.weights) or (None,)):
            for kernel, text in ((row.fused or row.kernel, row.probe), (row.float_kernel, row.float_probe)):
                if not text:
                    continue
                recipe = probe_recipe(row, target, fmt, activations=activations, weights=weights)
                found = _run(text, row, target, recipe)
                yield ProbeResult(
                    op=row.op,
                    form=fmt,
                    activations=activations,
                    weights=weights,
                    expected=kernel,
                    found=found,
                    faults=() if found == kernel else _met(text, row, target, recipe),
                )


def _met(text: str, row: Row, target: Target, recipe: Recipe) -> tuple[str, ...]:
    """Return the faults that the runtime has and that a probe's model meets, by name."""
    candidates = examine(model_from_text(text), recipe, target).candidates
    written = (entry.written for entry in candidates if entry.op == row.op)
    return tuple(sorted(present({name for each in written for name in met(each)}, target)))


def _run(text: str, row: Row, target: Target, recipe: Recipe) -> str:
    """Quantize a probe's model as a recipe says, and return the operator that runs in the row's place."""
    model = model_from_text(text)
    statistics = TensorStatistics(histogram=None, minimum=-1.0, maximum=1.0, count=1)
    examined = examine(model, recipe, target)
    plan = make_plan(examined, Statistics(tensors=dict.fromkeys(examined.observed, statistics)))
    planned = [entry.node for entry in plan.decisions if entry.op == row.op and entry.action is Action.QUANTIZE]
    if not planned:
        return f"{row.op} kept in float: {plan.decisions[0].reason.text}"
    quantized, _ = rewrite(model, plan)
    try:
        optimized = optimized_graph(quantized, layout=False)
    except ModelError as error:
        return str(error)
    if row.codebook:
        expected = 0 if row.fused else 2  # decoded when the model is loaded; or rows, and then their values, looked up
        left = op_counts(optimized).get("Gather", 0)
        return row.fused or row.kernel if left == expected else f"{row.op} and {left} of Gather"
    if row.kernel in DQ_OPS and not row.fused:
        return row.kernel if row.kernel in op_counts(optimized) else f"{row.op} in float"
    ran = runs_as(quantized, optimized)[planned[0]]
    return ran.op.rpartition("::")[2] if ran.integer else f"{ran.op} in float"


def probe_recipe(
    row: Row, target: Target, fmt: Format, *, activations: QuantType | None, weights: QuantType | None
) -> Recipe:
    """Return the recipe that quantizes a probe's model as a row says, with the given types."""
    choice: dict[str, object] = {
        "format": fmt,
        "placement": "everywhere",
        "calibrator": "minmax",
        "portable": not row.contrib,
    }
    if activations is not None:
        read = {"dtype": activations, "granularity": _one_of(row.activation_granularities, PerTensor)}
        choice["activations"] = read if row.symmetric is None else {**read, "symmetric": row.symmetric}
    if weights is not None:
        choice["weights"] = {"dtype": weights, "symmetric": weights.signed}
        if row.codebook:
            choice["weights"] = {"dtype": weights, "codebook": weights.bits}
        if fmt is not Format.WEIGHT_ONLY:
            choice["weights"]["granularity"] = _one_of(row.granularities, PerChannel)  # type: ignore[index]
    return Recipe.parse({**choice, "target": target.name})


def _one_of(granularities: tuple[type, ...], usual: type) -> str:
    """Return the short name of the usual granularity, or of the first that is allowed."""
    kind = usual if usual in granularities else granularities[0]
    return str(kind().kind)


EXACT, PAIRS = "exact sums", "sums of pairs that saturate"


def probe_sums(target: Target) -> Iterator[ProbeResult]:
    """Run every row that multiplies codes by weights, on weights and activations at the end of their codes.

    All are as large as they can be and of one sign, so that every pair saturates if one does; what is found must be
    what the row says.
    """
    # Without what the plan does about it: the kernel is to be tried as it is.
    plain = replace(target, rows=tuple(replace(row, pairs=False) for row in target.rows))
    for row in target.rows:
        if row.op not in PRODUCTS or not row.activations:
            continue
        for fmt, activations, weights in product(sorted(row.formats), sorted(row.activations), sorted(row.weights)):
            yield ProbeResult(
                op=row.op,
                form=fmt,
                activations=activations,
                weights=weights,
                expected=PAIRS if row.pairs else EXACT,
                found=_sums(row, plain, fmt, activations, weights),
            )


def _sums(row: Row, target: Target, fmt: Format, activations: QuantType, weights: QuantType) -> str:
    import numpy as np

    model = model_from_text(row.probe)
    _fill(model, 0.01 if row.op == "LSTM" else 1.0)
    feeds = {value.name or "": np.ones(_shape(value), np.float32) for value in model.graph.inputs}
    expected = _first(run_model(model, feeds))
    recipe = probe_recipe(row, target, fmt, activations=activations, weights=weights)
    high = float(np.abs(expected).max())
    examined = examine(model, recipe, target)
    tensors = {
        name: TensorStatistics(histogram=None, minimum=0.0, maximum=1.0 if name in feeds else high, count=1)
        for name in examined.observed
    }
    plan = make_plan(examined, Statistics(tensors=tensors))
    quantized, _ = rewrite(model, plan)
    try:
        computed = _first(run_model(quantized, feeds, optimize=True))
    except ModelError as error:
        return str(error)
    return EXACT if np.allclose(computed, expected, rtol=0.05, atol=0.0) else PAIRS


def _fill(model: ir.Model, value: float) -> None:
    """Give every float weight of a probe the same elements."""
    import numpy as np
    import onnx_ir as ir

    for entry in model.graph.initializers.values():
        if entry.dtype == ir.DataType.FLOAT and entry.name in ("w", "r"):
            entry.const_value = ir.tensor(np.full(_shape(entry), value, np.float32), name=entry.name)


def _shape(value: ir.Value) -> tuple[int, ...]:
    assert value.shape is not None
    return tuple(value.shape.numpy())


def _first(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    return next(iter(outputs.values()))
