"""Report: what happened, complete enough to argue with and to get the same bytes again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxq.types.guarding import Guarding
from onnxq.types.plan import Plan
from onnxq.types.searching import Searching


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputError:
    """Difference of one graph output between the float model, optimizer off, and the quantized one.

    Attributes:
        name: the output.
        sqnr_plain: signal-to-quantization-noise ratio in dB (higher is closer) with the optimizer off: inf where both
            are identical, -inf where one holds NaN or infinities that the other has not, NaN where it holds no numbers.
        sqnr_served: the same as it will be served.
        max_abs_served: largest absolute difference as served.
        agreement_served: share of positions whose arg-max over the last axis agrees, None where there are no classes
            along that axis; of integer and string outputs the share of equal elements.
        values: numbers that were compared; 0 where the output held none, so that nothing is known of it. None: not
            counted, as in older reports.
    """

    name: str
    sqnr_plain: float
    sqnr_served: float
    max_abs_served: float
    agreement_served: float | None = None
    values: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the output held no values in any sample."""
        return self.values == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorError:
    """SQNR in dB of one quantized tensor against the float model's, optimizer off."""

    node: str
    tensor: str
    sqnr: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Interleaved timing of one call.

    Attributes:
        float_ms, quantized_ms: fastest run, milliseconds: the one that nothing else on the machine disturbed.
        speedup: float_ms / quantized_ms.
        runs: how often each model was timed.
        threads: intra-op threads, 0 for all cores.
        batch: rows of the first input, None where it has no axis.
    """

    float_ms: float
    quantized_ms: float
    speedup: float
    runs: int
    threads: int
    batch: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricResult:
    """The user's metric, or accuracy, of both models as served."""

    name: str
    float_value: float
    quantized_value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernels:
    """What the runtime really runs, read back from the optimized graph.

    Attributes:
        float_ops, quantized_ops: operator -> count in the optimized float and quantized graph.
        unfused: nodes planned as integer kernels that still run in float, each with what was found instead.
        expected, actual: kernel of each quantized node as planned, and the operator that runs it; nodes that left no
            trace are missing.
        conversions: quantize and dequantize nodes that are still run, and copies between providers, by operator.
    """

    float_ops: Mapping[str, int]
    quantized_ops: Mapping[str, int]
    unfused: Mapping[str, str] = field(default_factory=dict)
    expected: Mapping[str, str] = field(default_factory=dict)
    actual: Mapping[str, str] = field(default_factory=dict)
    conversions: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What running both models showed.

    Attributes:
        outputs: error of each output.
        tensors: of each quantized tensor.
        latency, metric, kernels: None where unknown.
        samples: compared.
        data: where they came from, in words.
        warnings: what was found on the way.
    """

    outputs: tuple[OutputError, ...]
    tensors: tuple[TensorError, ...] = ()
    latency: Latency | None = None
    metric: MetricResult | None = None
    kernels: Kernels | None = None
    samples: int = 0
    data: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """How much of what holds or multiplies weights is quantized, and why the rest is not.

    Attributes:
        weight_bytes: of the float model, by `quantized` or the reason code of what stays in float.
        macs: multiply-accumulates in one run, the same way; free extents that calibration did not see count as 32.
    """

    weight_bytes: Mapping[str, int]
    macs: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a quantization did.

    Attributes:
        source, output: paths, None for in-memory models.
        float_bytes, quantized_bytes: serialized sizes, external data included.
        plan: every decision.
        verification: what running it showed, None if it was not run.
        recipe: the complete recipe as plain data, with what a guard decided as rules, so that it gives the same model
            again without a guard.
        guard: what that did, None if there was none.
        warnings: of every stage, in order.
        versions: of everything that shaped the result.
        hashes: sha256 of source, output and calibration data.
        seconds: time taken by each stage.
        passes: what each pass changed and took.
        search: every model that the search tried, None if there was none.
        calibration: samples seen, tensors observed, synthetic or not.
        coverage: by bytes and by operations.
        model: the quantized model, of the same kind as the input; not part of the JSON.
    """

    source: str | None
    output: str | None
    float_bytes: int
    quantized_bytes: int
    plan: Plan
    recipe: Mapping[str, Any]
    verification: Verification | None = None
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    passes: tuple[Mapping[str, Any], ...] = ()
    calibration: Mapping[str, Any] = field(default_factory=dict)
    guard: Guarding | None = None
    search: Searching | None = None
    coverage: Coverage | None = None
    model: Any = None
