"""compare: where two forms of a model differ, tensor by tensor; no plan is needed, whoever made the quantized one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from onnxq.data import Source
from onnxq.evaluate.comparison import Reference, TensorPair, TensorSums, compare_tensors
from onnxq.evaluate.outputs import output_errors
from onnxq.evaluate.tensors import dequantized, is_float
from onnxq.graph.walk import top_level
from onnxq.numerics.metrics import as_array
from onnxq.progress import Progress, Silent, step
from onnxq.runtime.session import open_session
from onnxq.runtime.taps import Taps
from onnxq.types.benchmark import Comparison, Spread, TensorDifference

if TYPE_CHECKING:
    import onnx_ir as ir

_BINS = 64
# What onnxq and onnxruntime's quantizer add to the name of a tensor once it is dequantized.
_ADDED = re.compile(r"(/dequantized|_DequantizeLinear_Output)(/\d+|_\d+)?$")


def compare(
    float_model: ir.Model,
    quantized: ir.Model,
    source: Source,
    *,
    threads: int = 1,
    worst: int = 4,
    max_samples: int = 32,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two forms of a model on the same inputs.

    A float tensor matches the one of the same name in the quantized model; where that is quantized and dequantized
    again, the dequantized value counts: it is what the nodes behind it read.

    Args:
        float_model: the model.
        quantized: what was made of it, by whatever tool, with the same inputs and outputs.
        source: what to feed.
        threads: intra-op threads, 0 for all cores.
        worst: of how many tensors to count the values.
        max_samples: how many samples to compare.
        progress: reports each group of tensors.

    Raises:
        ModelError: the runtime cannot load or run one of the models. CalibrationError: the data does not fit.
    """
    progress = progress or Silent()
    some = source.head(max_samples)
    with step(progress, some.samples, "compare outputs"):
        expected = Reference(float_model, some, threads=threads, memory=0)
        plain, served = (open_session(quantized, optimize=on, threads=threads) for on in (False, True))
        outputs, samples, warnings = output_errors(expected, plain, served, progress)
        del expected, plain, served  # their weights, before others are loaded
    pairs, unmatched = _match(float_model, quantized)
    forms = ((quantized, False), (quantized, True))
    with step(progress, len(pairs), "compare tensors"):
        # Reading tensors undoes fusions: groups stay as small as they are, so that the figures as served do not vary.
        sums = list(compare_tensors(float_model, forms, pairs, some, threads=threads, growth=1, progress=progress))
    # A tensor of undeclared type may turn out to hold no floats.
    ranked = sorted((each for each in sums if each.kind in "fV"), key=lambda each: each.errors[0].sqnr_db)
    return Comparison(
        outputs=outputs,
        tensors=tuple(
            _difference(each, _spread(each.pair, float_model, quantized, some, threads) if rank < worst else None)
            for rank, each in enumerate(ranked)
        ),
        unmatched=unmatched,
        samples=samples,
        data=source.description,
        warnings=tuple(warnings),
    )


def _match(float_model: ir.Model, quantized: ir.Model) -> tuple[list[TensorPair], tuple[str, ...]]:
    """Return the tensors that both models make, in graph order, and those that only the float model makes."""
    known: dict[str, ir.Value] = {}
    for node in quantized.graph:
        for value in node.outputs:
            name = value.name or ""
            known[name] = value
            if node.op_type == "DequantizeLinear":  # of a tensor whose own node is gone, absorbed by the one before
                known.setdefault(_ADDED.sub("", name), value)
    pairs, unmatched = [], []
    for path, node in top_level(float_model):
        if all(value is not None and value.is_initializer() for value in node.inputs):
            continue
        for value in node.outputs:
            if not value.name or not is_float(value):
                continue
            stand_in = known.get(value.name)
            if stand_in is None or not is_float(stand_in):
                unmatched.append(value.name)
                continue
            read = dequantized(stand_in)
            pairs.append(TensorPair(node=path, tensor=value.name, counterpart=(read or stand_in).name or ""))
    return pairs, tuple(unmatched)


def _difference(sums: TensorSums, spread: Spread | None) -> TensorDifference:
    plain, served = sums.errors
    return TensorDifference(
        tensor=sums.pair.tensor,
        node=sums.pair.node,
        sqnr_plain=plain.sqnr_db,
        sqnr_served=served.sqnr_db,
        max_abs=plain.max_error,
        spread=spread,
    )


def _spread(
    pair: TensorPair, float_model: ir.Model, quantized: ir.Model, source: Source, threads: int
) -> Spread | None:
    """Count the values of both forms of a tensor in equal bins over what both hold; None without finite values."""
    sides = []
    for model, name in ((float_model, pair.tensor), (quantized, pair.counterpart)):
        taps = Taps(model, [name], optimize=False, threads=threads)
        arrays = [as_array(taps.run(feeds)[name]).astype(np.float64).reshape(-1) for feeds in source]
        values = np.concatenate(arrays)
        sides.append(values[np.isfinite(values)])
    if not all(values.size for values in sides):
        return None
    low, high = min(values.min() for values in sides), max(values.max() for values in sides)
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    counts = [tuple(np.histogram(values, edges)[0].tolist()) for values in sides]
    return Spread(edges=tuple(edges.tolist()), float_counts=counts[0], quantized_counts=counts[1])
