"""Calibrate: run the model over samples and reduce what its tensors hold to statistics of fixed size."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from onnxq.data.source import Source
from onnxq.graph.fingerprint import fingerprint
from onnxq.numerics.histogram import empty, merge, observe
from onnxq.runtime.taps import Taps
from onnxq.stages.progress import Progress, Silent
from onnxq.types.statistics import Statistics

if TYPE_CHECKING:
    import onnx_ir as ir


def calibrate(
    model: ir.Model,
    tensors: Collection[str],
    source: Source,
    *,
    channel_axes: Mapping[str, int] | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> Statistics:
    """Observe `tensors` while the model runs over `source`.

    Raises:
        CalibrationError: data that does not fit the model, or a tensor that the model has not.
    """
    progress = progress or Silent()
    axes = channel_axes or {}
    taps = Taps(model, tensors, threads=threads)
    seen = {name: empty() for name in taps.tensors}
    samples = 0
    progress.start(source.samples, "calibrate")
    try:
        for batch in source.batches():
            for name, array in taps.run(batch.feeds).items():
                batched = array.ndim > 0 and array.shape[0] == batch.samples
                observed = observe(array, batch_axis=0 if batched else None, channel_axis=axes.get(name))
                seen[name] = merge(seen[name], observed)
            samples += batch.samples
            progress.advance(batch.samples)
    finally:
        progress.finish()
    return Statistics(tensors=seen, fingerprint=fingerprint(model), samples=samples, synthetic=source.synthetic)
