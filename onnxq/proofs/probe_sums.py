"""Probe what a row says of its kernel's sums: exact, or saturating where pairs of products are added in 16 bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from onnxq.errors import ModelError
from onnxq.graph.text import model_from_text
from onnxq.proofs.probe import ProbeResult, probe_recipe
from onnxq.runtime.session import run_model
from onnxq.stages.plan import make_plan, observed_tensors
from onnxq.stages.rewrite import rewrite
from onnxq.targets import Row, Target
from onnxq.targets.pair_sums import PRODUCTS
from onnxq.types.format import Format
from onnxq.types.scheme import QuantType
from onnxq.types.statistics import Statistics, TensorStatistics

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

EXACT, PAIRS = "exact sums", "sums of pairs that saturate"


def probe_sums(target: Target) -> Iterator[ProbeResult]:
    """Run every row that multiplies codes by weights, on weights and activations at the end of their codes.

    All are as large as they can be and of one sign, so that every pair saturates if one does; what is found must be
    what the row says.
    """
    # Without what the plan does about it: the kernel is to be seen as it is.
    plain = replace(target, rows=tuple(replace(row, pairs=False) for row in target.rows))
    for row in target.rows:
        if row.op not in PRODUCTS or not row.activations:
            continue
        for form, activations, weights in product(sorted(row.formats), sorted(row.activations), sorted(row.weights)):
            yield ProbeResult(
                op=row.op,
                form=form,
                activations=activations,
                weights=weights,
                expected=PAIRS if row.pairs else EXACT,
                found=_sums(row, plain, form, activations, weights),
            )


def _sums(row: Row, target: Target, form: Format, activations: QuantType, weights: QuantType) -> str:
    import numpy as np

    model = model_from_text(row.probe)
    _fill(model, 0.01 if row.op == "LSTM" else 1.0)
    feeds = {value.name or "": np.ones(_shape(value), np.float32) for value in model.graph.inputs}
    expected = _first(run_model(model, feeds))
    recipe = probe_recipe(row, target, form, activations=activations, weights=weights)
    high = float(np.abs(expected).max())
    tensors = {
        name: TensorStatistics(histogram=None, minimum=0.0, maximum=1.0 if name in feeds else high, count=1)
        for name in observed_tensors(model, recipe, target)
    }
    plan = make_plan(model, Statistics(tensors=tensors), recipe, target)
    quantized, _ = rewrite(model, plan)
    try:
        found = _first(run_model(quantized, feeds, optimize=True))
    except ModelError as error:
        return str(error)
    return EXACT if np.allclose(found, expected, rtol=0.05, atol=0.0) else PAIRS


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
