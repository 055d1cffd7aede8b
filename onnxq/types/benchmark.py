"""Benchmark and Comparison: models side by side, in figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxq.types.report import OutputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """How models are served: execution provider, intra-op threads (0: all cores), samples a call."""

    provider: str
    threads: int
    batch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One model in one setting.

    Attributes:
        model: path.
        setting: how it was served.
        median_ms, p95_ms, best_ms: of one call, milliseconds.
        runs: how many there were.
        throughput: samples a second, by the median.
        speedup: fastest run of the first model / fastest run of this one.
        noise: relative difference that could be chance.
        load_seconds: until the session was ready.
        memory_bytes: what loading and running added at the peak, in a process of its own; None where the system does
            not tell.
        file_bytes: external data included.
        sqnr: worst output against the first model's, dB; inf for the first, NaN without outputs that hold floats.
    """

    model: str
    setting: Setting
    median_ms: float
    p95_ms: float
    best_ms: float
    runs: int
    throughput: float
    speedup: float
    noise: float
    load_seconds: float
    memory_bytes: int | None
    file_bytes: int
    sqnr: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """Models in all settings, the first model first.

    Attributes:
        rows: setting by setting, in the order of the models.
        data: what they were run on, in words.
        shapes: of each input at the first batch size.
        versions: of what ran them.
        warnings: what to mind.
    """

    rows: tuple[Measured, ...]
    data: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Values of one tensor in both models: `counts` of the float and of the quantized one, between `edges`."""

    edges: tuple[float, ...]
    float_counts: tuple[int, ...]
    quantized_counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorDifference:
    """One tensor that both models have.

    Attributes:
        tensor: its name in the float model.
        node: what makes it there.
        sqnr_plain, sqnr_served: dB with the optimizer off, and on; tapped, a tensor is fused with nothing behind it.
        max_abs: largest absolute difference, optimizer off.
        spread: of the worst ones.
    """

    tensor: str
    node: str
    sqnr_plain: float
    sqnr_served: float
    max_abs: float
    spread: Spread | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Where a quantized model differs from the float model.

    Attributes:
        outputs: error of each output.
        tensors: worst first, optimizer off.
        unmatched: floats of the float model that have no counterpart.
        samples: compared.
        data: in words.
        warnings: what to mind.
    """

    outputs: tuple[OutputError, ...]
    tensors: tuple[TensorDifference, ...]
    unmatched: tuple[str, ...] = ()
    samples: int = 0
    data: str = ""
    warnings: tuple[str, ...] = ()
