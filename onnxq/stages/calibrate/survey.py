"""Survey: how large tensors become, before any is observed; it takes no more to see which ones a plan needs."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from onnxq.data.batch import Batch
from onnxq.data.source import Source
from onnxq.errors import CalibrationError, ModelError
from onnxq.graph.fingerprint import fingerprint
from onnxq.numerics.histogram import merge_shapes
from onnxq.runtime.taps import in_graph_order, tensor_shapes
from onnxq.types.statistics import Statistics, TensorStatistics

if TYPE_CHECKING:
    import onnx_ir as ir

Shapes = tuple[tuple[int, int], ...]


def survey(model: ir.Model, tensors: Collection[str], source: Source) -> Statistics:
    """Return statistics that know of each tensor no more than its `shapes`, seen on the largest samples.

    The data is read once, where the model's inputs are of no fixed size; for every axis of an input the model runs on
    the sample that is largest along it.

    Raises:
        CalibrationError: data that does not fit the model, or a tensor that the model has not.
        ModelError: the model does not run on the data.
    """
    found: dict[str, Shapes | None] = {}
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
                seen = tuple(
                    (1, 1) if axis == 0 and extent == batch.samples else (extent, extent)
                    for axis, extent in enumerate(shape)
                )
                found[name] = merge_shapes(found[name], seen) if name in found else seen
    known = {  # of a branch that these samples did not take, nothing is known yet
        name: TensorStatistics(histogram=None, minimum=0.0, maximum=0.0, count=0, shapes=found.get(name) or ())
        for name in wanted
    }
    return Statistics(tensors=known, fingerprint=fingerprint(model), synthetic=source.synthetic)


def _largest(source: Source) -> list[Batch]:
    """Return the samples that are largest along an axis of an input, each once."""
    found: dict[tuple[str, int], Batch] = {}
    first = 1 if source.signature.has_batch_axis else 0
    alone = source.signature.has_batch_axis and source.signature.fixed_batch is None
    for batch in source.batches():
        for name, array in batch.feeds.items():
            for axis in range(first, array.ndim):
                held = found.get((name, axis))
                if held is None or array.shape[axis] > held.feeds[name].shape[axis]:
                    found[name, axis] = batch
        found = found or {("", 0): batch}
        if source.signature.is_fixed:
            break
    return [batch.rows(0, 1) if alone else batch for batch in {id(batch): batch for batch in found.values()}.values()]


_SHOWN = 3


def findings(statistics: Statistics) -> tuple[str, ...]:
    """Return warnings about the tensors' values, worst first; () if all is well."""
    nan = {name: seen.nan for name, seen in statistics.tensors.items() if seen.nan}
    infinite = {name: seen.pos_inf + seen.neg_inf for name, seen in statistics.tensors.items()}
    found = []
    for what, hit in (("NaN", nan), ("infinite values", {name: count for name, count in infinite.items() if count})):
        if hit:
            worst = sorted(hit, key=lambda name: (-hit[name], name))
            shown = ", ".join(
                f"'{name}' ({hit[name]} of {_total(statistics.tensors[name])})" for name in worst[:_SHOWN]
            )
            more = f" and {len(worst) - _SHOWN} more" if len(worst) > _SHOWN else ""
            found.append(f"the float model computes {what} in {shown}{more}; they are left out of the ranges")
    return tuple(found)


def _total(seen: TensorStatistics) -> int:
    masked = sum(sentinel.count for sentinel in seen.sentinels)
    return seen.count + masked + seen.nan + seen.pos_inf + seen.neg_inf
