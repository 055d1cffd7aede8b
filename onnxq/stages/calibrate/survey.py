"""Survey: how large tensors become, before any is observed; a plan needs no more to choose which ones to observe."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from onnxq.data.batch import Batch
from onnxq.data.source import Source
from onnxq.errors import CalibrationError, ModelError
from onnxq.graph.fingerprint import fingerprint
from onnxq.numerics.histogram import Shapes, merge_shapes, sample_shape
from onnxq.runtime.taps import in_graph_order, tensor_shapes
from onnxq.types.statistics import Statistics, TensorStatistics

if TYPE_CHECKING:
    import onnx_ir as ir


def survey(model: ir.Model, tensors: Collection[str], source: Source) -> Statistics:
    """Return statistics that know of each tensor no more than its `shapes`, seen on the largest samples.

    The data is read once, where the model's inputs are of no fixed size; for every axis of an input the model runs on
    the sample that is largest along it.

    Raises:
        CalibrationError: data that does not fit the model, or a tensor that the model lacks.
        ModelError: the model does not run on the data.
    """
    merged: dict[str, Shapes | None] = {}
    wanted = in_graph_order(model, tensors)
    largest = _largest(source)
    try:
        extents = tensor_shapes(model, wanted, [each.feeds for each in largest])
    except ModelError as error:
        if not source.synthetic:
            raise
        raise CalibrationError(f"{source.description}: {error}, or give real samples with --calibration") from error
    for batch, shapes in zip(largest, extents, strict=True):
        for name, each in shapes.items():
            for shape in each:
                spans = sample_shape(shape, 0 if shape[:1] == (batch.samples,) else None)
                merged[name] = merge_shapes(merged[name], spans) if name in merged else spans
    known = {  # of a branch that these samples did not take, nothing is known yet
        name: TensorStatistics(histogram=None, minimum=0.0, maximum=0.0, count=0, shapes=merged.get(name) or ())
        for name in wanted
    }
    return Statistics(tensors=known, fingerprint=fingerprint(model), synthetic=source.synthetic)


def _largest(source: Source) -> list[Batch]:
    """Return the samples that are largest along an axis of an input, each once."""
    largest: dict[tuple[str, int], Batch] = {}
    first = 1 if source.signature.has_batch_axis else 0
    alone = source.signature.has_batch_axis and source.signature.fixed_batch is None
    for batch in source.batches():
        for name, array in batch.feeds.items():
            for axis in range(first, array.ndim):
                known = largest.get((name, axis))
                if known is None or array.shape[axis] > known.feeds[name].shape[axis]:
                    largest[name, axis] = batch
        largest = largest or {("", 0): batch}
        if source.signature.is_fixed:
            break
    return [batch.rows(0, 1) if alone else batch for batch in {id(batch): batch for batch in largest.values()}.values()]


_SHOWN = 3


def findings(statistics: Statistics) -> tuple[str, ...]:
    """Return warnings about the tensors' values, worst first; () if all is well."""
    nan = {name: tensor.nan for name, tensor in statistics.tensors.items()}
    infinite = {name: tensor.pos_inf + tensor.neg_inf for name, tensor in statistics.tensors.items()}
    warnings = []
    for what, counts in (("NaN", nan), ("infinite values", infinite)):
        worst = sorted((name for name, count in counts.items() if count), key=lambda name: (-counts[name], name))
        if worst:
            totals = {name: _total(statistics.tensors[name]) for name in worst[:_SHOWN]}
            shown = ", ".join(f"'{name}' ({counts[name]} of {total})" for name, total in totals.items())
            more = f" and {len(worst) - _SHOWN} more" if len(worst) > _SHOWN else ""
            warnings.append(f"the float model computes {what} in {shown}{more}; they are left out of the ranges")
    return tuple(warnings)


def _total(tensor: TensorStatistics) -> int:
    masked = sum(sentinel.count for sentinel in tensor.sentinels)
    return tensor.count + masked + tensor.nan + tensor.pos_inf + tensor.neg_inf
