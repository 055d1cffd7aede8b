"""Targets: what an execution provider really runs in low precision, as rows of data, each with its evidence.

A row holds for a QDQ group: DequantizeLinear on every activation and weight, the operator, and QuantizeLinear on its
output. `onnxq.proofs.probe` proves a row by quantizing its one-operator model and reading back the graph that
onnxruntime makes of it, and whether its kernel saturates. A new target is one new file that adds to `targets`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from onnxq.registry import Registry
from onnxq.targets.pair_sums import IntegerProduct, exact
from onnxq.types.costs import Costs
from onnxq.types.float_type import FloatType
from onnxq.types.format import Format
from onnxq.types.plan import PairLimit
from onnxq.types.scheme import PerChannel, PerTensor, QuantType, Range, Scheme
from onnxq.types.statistics import TensorStatistics

if TYPE_CHECKING:
    import onnx_ir as ir


class Output(StrEnum):
    """Whether the integer kernel needs its output quantized, or can return float at no cost."""

    REQUIRED = "required"
    OPTIONAL = "optional"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One operator that runs as an integer kernel.

    Attributes:
        op: `domain::op_type` of the float operator.
        kernel: op_type of the integer kernel (the same name where the operator itself takes integers).
        float_kernel: op_type where the output stays float; empty for the same.
        activations: types of activations that the kernel takes.
        weights: types of weights that the kernel takes; empty where the operator has none.
        codebook: whether weights are indices into tables of values (`weights`: types of the indices), or evenly spaced.
        formats: in which the row holds.
        contrib: whether the kernel is onnxruntime's own, outside the ONNX standard.
        output: whether the output must be quantized.
        takes_clamp: whether a Relu or Clip behind the operator, its only reader and with one reader itself, is a part
            of the group: the runtime then fuses nothing unless the clamp's output is quantized.
        granularities: of weights.
        activation_granularities: of activations.
        largest_rank_per_channel: of weights that can have a scale for each channel, None for any; others get one scale.
        symmetric: whether activations must be quantized symmetrically (True) or must not be (False); None for either.
        output_range: range that the kernel wants its output quantized with, None for what calibration saw.
        loses: returns why that range would lose too much of the output that calibration saw, None if it does not.
        refuses: returns why a node with a weight scheme does not qualify, None if it does.
        condition: the same in words, for the table.
        defaults: schemes for this operator where the recipe does not say, None for those of the format; an operator's
            first row in a format gives them.
        opset: lowest ONNX opset that has the operators written for a weight scheme; None for any.
        fused: op_type of the kernel that onnxruntime fuses `kernel` and the operator into; empty where it runs both.
        slower: why the kernel is not faster, in words; nodes stay in float then, unless the recipe wants kernels
            everywhere.
        float_ns: time in float for each output element, for choosing between float and integers where an operator
            alone decides nothing; see `Target.timing`.
        quantized_ns: the same in integers.
        probe: ONNX text of a float model, this operator first, that must run it as `kernel` once quantized.
        float_probe: the same for `float_kernel`.
        evidence: how the row is known.
        pairs: whether the kernel adds pairs of products in 16 bits, which saturate; see `onnxq.targets.pair_sums`.
        float_inputs: returns the input slots of a node that the kernel takes in float, None for no such slots.
        float_bias: whether the kernel takes a bias in float, which then stays as it is.
        splits: whether features of the activation can be left out of the kernel, to be multiplied in float beside it.
        hazard: what the kernel computes differently from its operator, and what is done about it, in words.
    """

    op: str
    kernel: str
    activations: frozenset[QuantType]
    weights: frozenset[QuantType] = frozenset()
    formats: frozenset[Format] = frozenset({Format.QDQ, Format.QOPERATOR})
    codebook: bool = False
    contrib: bool = False
    output: Output = Output.REQUIRED
    float_kernel: str = ""
    takes_clamp: bool = False
    granularities: tuple[type, ...] = (PerTensor, PerChannel)
    activation_granularities: tuple[type, ...] = (PerTensor,)
    largest_rank_per_channel: int | None = None
    symmetric: bool | None = None
    output_range: Range | None = None
    loses: Callable[[ir.Node, TensorStatistics], str | None] | None = None
    refuses: Callable[[ir.Node, Scheme], str | None] | None = None
    condition: str = ""
    defaults: Defaults | None = None
    opset: Callable[[Scheme], int] | None = None
    fused: str = ""
    slower: str = ""
    float_ns: float = 0.0
    quantized_ns: float = 0.0
    probe: str = ""
    float_probe: str = ""
    evidence: str = ""
    pairs: bool = False
    float_inputs: Callable[[ir.Node], frozenset[int]] | None = None
    float_bias: bool = False
    splits: bool = False
    hazard: str = ""


UNMEASURED = Costs(
    quantize=0.0,
    dequantize=0.0,
    float_mac=2.0,
    quantized_mac=1.0,
    quantized_output=0.0,
    run_time_quantize=0.0,
    run_time_output=0.0,
    run_time_node=0.0,
    source="not measured",
)
"""Of a target without figures: integer products pay whatever their size, and conversions cost nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Defaults:
    """Schemes and weight method of a format where the recipe does not say."""

    activations: Scheme
    weights: Scheme
    method: str = "rtn"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """An execution provider on a processor.

    Attributes:
        name: for the user.
        summary: for the user.
        provider: onnxruntime's name of the execution provider.
        defaults: schemes for each format that it has.
        timing: times that decide where Q/DQ pairs pay.
        rows: the low-precision kernels.
        floats: the operators that it computes in a shorter float type than float32, for each such type.
        stands_for: name of the target that this one is another name of ("cpu" on a machine with VNNI: "cpu-vnni"), or
            empty. Recipes, plans and reports keep that name, so that they mean the same on every machine.
        instead: for operators and formats without kernels: what to do instead, in words.
        pair_limit: returns the limit of a product's weight at which no sum saturates, None for no limit; called with
            the product and the largest activation code that can occur (None: its type's).
        faults: names of the faults that its runtime has (`onnxq.targets.faults`), which plans avoid.
    """

    name: str
    summary: str
    provider: str
    defaults: Mapping[Format, Defaults]
    timing: Costs
    rows: tuple[Row, ...]
    floats: Mapping[FloatType, frozenset[str]] = field(default_factory=dict)
    stands_for: str = ""
    instead: Mapping[str, str] = field(default_factory=dict)
    pair_limit: Callable[[IntegerProduct, int | None], PairLimit | None] = exact
    faults: frozenset[str] = frozenset()

    def rows_for(self, op: str, fmt: Format, *, portable: bool = False) -> tuple[Row, ...]:
        """Return the rows of one operator in one format, best first; () if it always runs in float."""
        return tuple(row for row in self.rows if row.op == op and fmt in row.formats and not (portable and row.contrib))

    def defaults_for(self, op: str) -> Mapping[Format, Defaults]:
        """Return the schemes of each format for one operator."""
        own = {fmt: self.rows_for(op, fmt)[:1] for fmt in self.defaults}
        return {**self.defaults} | {
            fmt: rows[0].defaults for fmt, rows in own.items() if rows and rows[0].defaults is not None
        }


targets: Registry[Target] = Registry("target", "onnxq.targets")


def with_costs(target: Target, costs: Costs) -> Target:
    """Return a target whose plans use measured costs."""

    def timed(row: Row) -> Row:
        if row.op not in costs.operators or not (row.float_ns or row.quantized_ns):
            return row
        float_ns, quantized_ns = costs.operators[row.op]
        return replace(row, float_ns=float_ns, quantized_ns=quantized_ns)

    return replace(target, timing=costs, rows=tuple(timed(row) for row in target.rows))
