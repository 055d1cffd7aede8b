"""Costs: what one machine and runtime were measured to take, for plans that go by time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """Measured times in nanoseconds, on one thread.

    Attributes:
        source: processor, version of onnxruntime and date.
        quantize, dequantize: one QuantizeLinear or DequantizeLinear, each element.
        float_mac, quantized_mac: one multiply-accumulate of a product or convolution.
        quantized_output: what an integer product costs for each output element beside its multiplications.
        run_time_quantize: finding range and codes of an activation at run time, each element.
        run_time_output, run_time_node: of a product whose activation is quantized at run time: each output element, and
            once.
        operators: operator without weights -> each output element in float and quantized.
    """

    source: str
    quantize: float
    dequantize: float
    float_mac: float
    quantized_mac: float
    quantized_output: float
    run_time_quantize: float
    run_time_output: float
    run_time_node: float
    operators: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelTime:
    """Time of one node: operator and shape, how it was written ("float", "u8s8", "dynamic" ...), microseconds."""

    op: str
    shape: str
    form: str
    microseconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CostTable:
    """What `onnxq targets --measure` keeps.

    Attributes:
        target, processor, onnxruntime: what it holds for; others are measured again.
        costs: what plans go by. kernels: what they were drawn from, for people.
    """

    target: str
    processor: str
    onnxruntime: str
    costs: Costs
    kernels: tuple[KernelTime, ...]
