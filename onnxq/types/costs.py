"""Costs: times of one machine and runtime, for plans that use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """Times that decide where Q/DQ pairs pay, in nanoseconds on one thread; only their ratios matter.

    Attributes:
        source: of the figures: processor, version of onnxruntime and date.
        quantize: QuantizeLinear, for each element.
        dequantize: DequantizeLinear, for each element.
        float_mac: one multiply-accumulate of a product or convolution in float.
        quantized_mac: one multiply-accumulate of a product or convolution in integers.
        quantized_output: cost of an integer product for each output element beside its multiplications.
        run_time_quantize: range and codes of an activation at run time, for each element.
        run_time_output: `quantized_output` of a product whose activation is quantized at run time.
        run_time_node: cost of such a product, once.
        operators: operator without weights -> time in float and in integers, for each output element.
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
        costs: what plans use.
        kernels: what they were drawn from, for people.
    """

    target: str
    processor: str
    onnxruntime: str
    costs: Costs
    kernels: tuple[KernelTime, ...]
