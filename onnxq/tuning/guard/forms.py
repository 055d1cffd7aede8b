"""Other forms of a quantized node, worth a try in this order: what is nearest to the recipe first."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxq.ops.quantized import MATMUL_NBITS
from onnxq.types.accuracy import EXACT, ROUNDS
from onnxq.types.format import Format
from onnxq.types.plan import Decision, Plan, Role
from onnxq.types.rule import Match, Rule
from onnxq.types.scheme import QuantType, Scheme

_WITH_PRODUCTS = frozenset({"MatMul", "Gemm"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """A form.

    Attributes:
        name: in words.
        says: what a rule says that gives it to nodes; nothing for float.
    """

    name: str
    says: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def is_float(self) -> bool:
        """Whether nodes are not quantized in it."""
        return not self.says


FLOAT = Form(name="in float")


def forms_of(decision: Decision, plan: Plan, *, portable: bool) -> tuple[Form, ...]:
    """Return the forms that a node may have instead of the planned one, float last.

    Args:
        decision: about the node.
        plan: that it is of.
        portable: whether only operators of the standard may be written.
    """
    return (*_forms(decision, plan, portable=portable), FLOAT)


def rule_for(nodes: Sequence[str], form: Form, because: str) -> Rule:
    """Return the rule that gives nodes a form, because of a kernel that computes something else."""
    match = Match(name=tuple(glob.escape(node) for node in nodes))
    if form.is_float:
        return Rule(match=match, keep="kernel-fault", because=because)
    return Rule.model_validate({"match": match, "why": "kernel-fault", "because": because, **form.says})


def _forms(decision: Decision, plan: Plan, *, portable: bool) -> Iterator[Form]:
    activation, weight = (_scheme(decision, plan, role) for role in (Role.ACTIVATION, Role.WEIGHT))
    if weight is None or weight.codebook is not None:
        return
    op = decision.op
    if decision.format is Format.WEIGHT_ONLY:
        if decision.kernel == MATMUL_NBITS and decision.accuracy_level == ROUNDS:
            yield Form(name=f"accuracy level {EXACT}", says={"accuracy_level": EXACT})
        if not weight.symmetric:
            yield Form(name="symmetric weights", says={"weights": {"symmetric": True}})
        return
    if weight.dtype is QuantType.INT8:
        kind = {"dtype": QuantType.UINT8, "symmetric": weight.symmetric}
        yield Form(name="uint8 weights", says={"weights": kind})
    if activation is not None and activation.dtype is QuantType.INT8:
        yield Form(name="uint8 activations", says={"activations": {"dtype": QuantType.UINT8, "symmetric": False}})
    if op in _WITH_PRODUCTS and not portable:
        blocks = {"dtype": QuantType.INT8, "symmetric": True, "granularity": "per-block(32)"}
        yield Form(name="8-bit weights alone", says={"format": Format.WEIGHT_ONLY, "weights": blocks})


def _scheme(decision: Decision, plan: Plan, role: Role) -> Scheme | None:
    """Return the scheme of a node's first input of a role, None if absent."""
    tensors = (plan.tensors[key] for _, key in sorted(decision.inputs.items()))
    return next((tensor.scheme for tensor in tensors if tensor.role is role), None)
