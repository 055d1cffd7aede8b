"""Plan: for every node one decision and one reason, for every quantized tensor its scheme and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from onnxq.types.equalization import Equalization
from onnxq.types.float_type import FloatType
from onnxq.types.format import Format
from onnxq.types.plain_data import Real
from onnxq.types.scheme import QuantParams, Scheme

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


ALREADY, IMPORTED = "already-quantized", "imported"
"""Codes of the reasons of imported nodes: unchanged; rewritten in another format, with its own parameters."""


class Action(StrEnum):
    """What happens to a node."""

    QUANTIZE = "quantize"
    KEEP = "keep"


class Role(StrEnum):
    """What a tensor is to the node that reads it."""

    ACTIVATION = "activation"
    WEIGHT = "weight"
    BIAS = "bias"


class Detour(StrEnum):
    """Another way to write a node, around a fault of the runtime; what it computes is the same.

    OWN_CODES: codes and parameters of its weights lie in the body that it stands in, not where the float weight lay.
    SIGNED_TABLE: codes of the table that it looks up are stored as int8 instead of uint8.
    CONTRIB_LINEAR: QuantizeLinear and DequantizeLinear are those of com.microsoft.
    """

    OWN_CODES = "own-codes"
    SIGNED_TABLE = "signed-table"
    CONTRIB_LINEAR = "contrib-linear"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Why: a stable code for machines and counts, and a sentence for people."""

    code: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What happens to one node.

    Attributes:
        node: the node's name, unique in the prepared model; nodes of subgraphs carry their scope, `outer/branch/inner`.
        op: `domain::op_type`, the domain left out for the ONNX operators.
        action, reason: what and why.
        format: how a quantized node is written, None for one that is kept.
        rule: index of the recipe rule that decided, None for the defaults.
        inputs: slots read as quantized tensors, and their tensor's name in the plan.
        outputs: slots whose value is quantized right behind this node; every consumer then reads the quantized value.
        kernel: the operator the target is expected to run, None where the node stays in float.
        accuracy_level: of the kernel MatMulNBits, None for all others; see `onnxq.types.recipe.Recipe`.
        float_type, float_reason: the type in which the node's floats are computed, and why; None where the recipe
            leaves float32 as it is, or the node has no floats.
        detours: how it is written otherwise, around faults of the runtime that the reason names.
    """

    node: str
    op: str
    action: Action
    reason: Reason
    format: Format | None = None
    rule: int | None = None
    inputs: Mapping[int, str] = field(default_factory=dict)
    outputs: Mapping[int, str] = field(default_factory=dict)
    kernel: str | None = None
    accuracy_level: int | None = None
    float_type: FloatType | None = None
    float_reason: Reason | None = None
    detours: tuple[Detour, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PairLimit:
    """What keeps a weight from saturating where a kernel adds pairs of products in 16 bits.

    Attributes:
        axes: of the weight, those that the kernel runs along, slowest first; elements 2k and 2k + 1 are a pair.
        limit: what the codes of one sign in a pair may add up to; see `onnxq.numerics.pair_safe`.
    """

    axes: tuple[int, ...]
    limit: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatFeatures:
    """Features that stay in float, by their indices, in order; `count`: how many features there are."""

    indices: tuple[int, ...]
    count: int

    def others(self) -> npt.NDArray[np.float32]:
        """Return 1 for each feature that is quantized, 0 for those that stay in float: float32, shape (count,)."""
        import numpy as np

        mask = np.ones(self.count, np.float32)
        mask[list(self.indices)] = 0
        return mask


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorPlan:
    """How one tensor is quantized.

    Attributes:
        name: the key in the plan: the tensor's name, or name and consumer where consumers need different forms.
        tensor: the tensor's name in the prepared model.
        role: activation, weight or bias.
        scheme: what is wanted.
        params: scale and zero point of activations. None for weights and biases: those follow from their data
            (`method`), and for a bias from `scale_from`; and None for activations that are quantized at run time.
        method: weight method that turns data into codes, with its options ("rtn", "mse:importance=true").
        features_from: tensors whose statistics the method uses: the values that the weight multiplies, of all its
            readers.
        feature_axis: the weight's axis that their features lie along.
        pairs: what the codes of a weight must keep to after the method; None for nothing.
        scale_from: for a bias, the plan keys (activation, weight) whose scales' product is its scale.
        shares: plan key of the tensor whose parameters this one took over, None if its own.
        in_float: features of an activation, along its last axis, that stay in float, and those of the weights that
            multiply it, along `feature_axis`; codes represent zeros there. None for none.
        reason: where the parameters come from, in words.
    """

    name: str
    tensor: str
    role: Role
    scheme: Scheme
    params: QuantParams | None = None
    method: str | None = None
    features_from: tuple[str, ...] = ()
    feature_axis: int | None = None
    pairs: PairLimit | None = None
    scale_from: tuple[str, str] | None = None
    shares: str | None = None
    in_float: FloatFeatures | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConstantPlan:
    """In which type a float32 constant is stored, and why."""

    float_type: FloatType
    reason: Reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything the rewrite needs to know, and why.

    Attributes:
        format: of all decisions that no rule gave another one.
        target: the target it was made for.
        fingerprint: of the prepared model it belongs to.
        decisions: one for every node, in topological order.
        tensors: by plan key.
        warnings: what the user should know.
        constants: by the name of an initializer, how it is stored; empty where the recipe leaves float32 as it is.
        times: where the times come from that decided what is cheaper in float.
        equalizations: what was done to the model before, so that it is easier to quantize, and what was not.
        bias_corrections: what is added to biases, by the name of the initializer, one float64 an element.
    """

    format: Format
    target: str
    fingerprint: str
    decisions: tuple[Decision, ...]
    tensors: Mapping[str, TensorPlan]
    warnings: tuple[str, ...] = ()
    constants: Mapping[str, ConstantPlan] = field(default_factory=dict)
    times: str = ""
    equalizations: tuple[Equalization, ...] = ()
    bias_corrections: Mapping[str, tuple[Real, ...]] = field(default_factory=dict)

    @property
    def uses_statistics(self) -> bool:
        """Whether weight methods need the statistics, and not just the plan made from them."""
        return any(tensor.features_from for tensor in self.tensors.values())
