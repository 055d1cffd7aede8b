"""Format auto: which format suits a model, by where its multiplications are."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from onnxq.graph.constants import constant_tensor
from onnxq.graph.walk import nodes
from onnxq.ops import facts, op_key
from onnxq.stages.plan.sizes import Sizes, multiply_accumulates
from onnxq.targets import Target
from onnxq.types.format import Format
from onnxq.types.statistics import Statistics

if TYPE_CHECKING:
    import onnx_ir as ir

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_PRODUCTS = frozenset({"MatMul", "Gemm"})
_CACHE = 32 << 20  # bytes of weights beyond which a processor's caches no longer hold them


def choose_format(model: ir.Model, target: Target) -> tuple[Format, str]:
    """Return a format for a prepared model, and why.

    Convolutions gain from codes that stay codes from one to the next: qdq. A product of one row waits for its weights,
    so smaller weights are what helps: weight-only. Other products gain from integer kernels, and their activations are
    quantized best when they are known: dynamic. Free extents count as 32.
    """
    work, one_row, weights = _work(model)
    total = sum(work.values())
    available = list(target.defaults)
    if total == 0:
        return available[0], "format auto: the model multiplies by no weights; any format would do"
    share = work["convolutions"] / total
    if share >= 0.5:
        wanted, why = Format.QDQ, f"convolutions are {share:.0%} of the multiplications"
    elif one_row >= 0.5 * total and weights > _CACHE:
        wanted, why = Format.WEIGHT_ONLY, f"products of one row wait for {weights / 1e6:.0f} MB of weights"
    else:
        wanted, why = Format.DYNAMIC, f"matrix products are {1 - share:.0%} of the multiplications"
    if wanted not in available:
        return available[0], f"format auto: {why}, but target {target.name} has no {wanted}; {available[0]} is taken"
    return wanted, f"format auto: {why}, so {wanted} is taken"


def _work(model: ir.Model) -> tuple[Counter[str], int, int]:
    """Return multiplications by kind of operator, those of products of one row, and the bytes of all weights."""
    sizes, work = Sizes(Statistics()), Counter[str]()
    one_row = weights = 0
    for _, node in nodes(model):
        key = op_key(node)
        fact = facts.get(key) if key in facts else None
        weight = None if fact is None or fact.weight is None else constant_tensor(node.inputs[fact.weight])
        if fact is None or weight is None or key == "Gather":
            continue
        multiplications = multiply_accumulates(node, sizes)
        kind = "convolutions" if key in _CONVOLUTIONS else "products"
        work[kind] += multiplications
        weights += weight.nbytes
        if key in _PRODUCTS and math.prod(sizes.shape(node.inputs[0])[:-1]) == 1:
            one_row += multiplications
    return work, one_row, weights
