"""Verify: run the float and the quantized model, with the optimizer off and as served, and report how they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxq.data.batch import Batch
from onnxq.data.source import Source
from onnxq.errors import ModelError, first_few
from onnxq.evaluate.comparison import Reference
from onnxq.evaluate.faults import known_faults
from onnxq.evaluate.kernels import read_kernels
from onnxq.evaluate.metric import Metric, accuracy, score
from onnxq.evaluate.outputs import output_errors, served_differs
from onnxq.evaluate.served import UNKNOWN, as_written, why_served_differs
from onnxq.evaluate.tensors import tensor_errors
from onnxq.progress import Progress, Silent, step
from onnxq.runtime.session import Session, open_session
from onnxq.runtime.timing import time_interleaved
from onnxq.types.plan import Plan
from onnxq.types.report import Kernels, Latency, MetricResult, Verification

if TYPE_CHECKING:
    import onnx_ir as ir

# Enough to rank the tensors; each costs as much memory as all tapped tensors of a run.
TENSOR_SAMPLES = 4
# Outputs are compared on this many.
MAX_SAMPLES = 128


def verify(
    float_model: ir.Model,
    quantized: ir.Model,
    source: Source | None,
    plan: Plan,
    *,
    reference: ir.Model | None = None,
    threads: int = 1,
    metric: Metric | None = None,
    max_samples: int = MAX_SAMPLES,
    latency_budget: float = 2.0,
    progress: Progress | None = None,
) -> Verification:
    """Compare a quantized model with the float model that it was made from.

    Args:
        float_model: the original.
        quantized: what was made of it, with the same inputs and outputs.
        source: evaluation data; None: only the kernels are read back.
        plan: what was planned.
        reference: float model with the plan's tensor names, for errors tensor by tensor; None: the original.
        threads: intra-op threads the model is served with, 0 for all cores.
        metric: the user's; None: accuracy where the data has labels.
        max_samples: samples to compare outputs on. The metric sees all of them.
        latency_budget: seconds to spend on timing, more on a busy machine. Timed is one call on the source's batch
            size, on one sample where it leaves the size open.
        progress: reports what is going on.

    Raises:
        ModelError: the runtime cannot load or run one of the models.
        CalibrationError: the data does not fit the model.
        RecipeError: the user's metric fails or returns no finite number.
    """
    progress = progress or Silent()
    known = known_faults(quantized, plan.target)
    try:
        kernels = read_kernels(float_model, quantized, plan, threads=threads)
    except ModelError as error:
        if not known:
            raise
        raise ModelError(f"{error}; {'; '.join(known)}") from error
    if source is None:
        return Verification(outputs=(), kernels=kernels)
    float_served, quantized_served = (open_session(model, threads=threads) for model in (float_model, quantized))
    some, few = source.head(max_samples), source.head(TENSOR_SAMPLES)
    with step(progress, some.samples, "compare outputs"):
        expected = Reference(as_written(float_model), some, threads=threads, memory=0)
        plain = open_session(as_written(quantized), optimize=False, threads=threads)
        outputs, samples, warnings = output_errors(expected, plain, quantized_served, progress)
        del expected, plain  # their weights, before others are loaded
    with step(progress, None, "compare tensors"):
        tensors = tensor_errors(reference or float_model, quantized, few, plan, threads=threads, progress=progress)
    result: MetricResult | None = None
    if metric is not None:
        with step(progress, 2, "score"):
            result = score(metric, float_served, quantized_served, progress)
    elif next(iter(source.batches())).labels is not None:
        with step(progress, source.samples, "score"):
            result, more = accuracy(float_served, quantized_served, source, progress)
        warnings += more
    latency, settled = _latency((float_served, quantized_served), source, threads, latency_budget)
    if not settled:
        warnings.append("the machine was busy while models were timed: the latency is uncertain, measure again")

    def why() -> str:
        planned_for = plan.target if plan.decisions else None
        text = why_served_differs(quantized, few, target=planned_for, threads=threads)
        return "; ".join(known) if known and text.startswith(UNKNOWN) else text

    harmful = (text for text, slight in known.items() if not slight)
    return Verification(
        outputs=outputs,
        tensors=tensors,
        latency=latency,
        metric=result,
        kernels=kernels,
        samples=samples,
        data=source.description,
        warnings=(*warnings, *harmful, *served_differs(outputs, why), *_unfused(kernels)),
    )


def _unfused(kernels: Kernels) -> list[str]:
    nodes = list(kernels.unfused)
    if not nodes:
        return []
    text = f"{len(nodes)} of the nodes planned as integer kernels run in float: {first_few(nodes)}"
    return [f"{text}; see 'unfused' in the report"]


def timed_batch(source: Source) -> Batch:
    """Return the batch that models are timed on: the source's first, of one sample where it leaves the size open."""
    batch = next(iter(source.batches()))
    return batch.rows(0, 1) if source.batch_size is None and source.signature.has_batch_axis else batch


def _latency(served: Sequence[Session], source: Source, threads: int, budget: float) -> tuple[Latency, bool]:
    batch = timed_batch(source)
    timing = time_interleaved(served, batch.feeds, budget=budget)
    first = next(iter(batch.feeds.values()), None)
    latency = Latency(
        float_ms=timing.best_ms(0),
        quantized_ms=timing.best_ms(1),
        speedup=timing.ratio(0, 1),
        runs=timing.rounds,
        threads=threads,
        batch=int(first.shape[0]) if first is not None and first.ndim else None,
    )
    return latency, timing.settled
