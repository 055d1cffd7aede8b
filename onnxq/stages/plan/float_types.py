"""What stays in float: in which type each node computes and each constant is stored, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxq.errors import RecipeError
from onnxq.graph.constants import moved_tensor
from onnxq.graph.float_slots import float_slots
from onnxq.graph.linear import CONTRIB
from onnxq.graph.walk import nodes, scopes
from onnxq.numerics.floats import misfit
from onnxq.ops import facts, op_key
from onnxq.ops.quantized import MATMUL_NBITS
from onnxq.targets import Target
from onnxq.types.float_type import FloatType
from onnxq.types.format import Format
from onnxq.types.plan import Action, ConstantPlan, Decision, Plan, Reason
from onnxq.types.recipe import Recipe

if TYPE_CHECKING:
    import onnx_ir as ir

_CAST_BYTES = 256  # a Cast node and its names
_BFLOAT16_CAST_OPSET = 13
# Sums, powers and counters leave the range or the precision of 16 bits though what goes in and comes out would not.
_NEEDS_FLOAT32 = (
    {"CumSum", "Exp", "Log", "Pow", "Range", "Resize", "RoiAlign", "Upsample"}
    | {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum"}
    | {"ReduceSumSquare"}
)


def with_float_types(plan: Plan, model: ir.Model, recipe: Recipe, target: Target) -> Plan:
    """Return the plan with the recipe's float type carried into its decisions and constants.

    Args:
        plan: made for `model`, in float32. model: prepared. recipe, target: what is wanted, and where it runs.

    Raises:
        RecipeError: the model's opset has no such type.
    """
    if recipe.float_type is FloatType.FLOAT32:
        return plan
    opset = model.opset_imports.get("", 1)
    if recipe.float_type is FloatType.BFLOAT16 and opset < _BFLOAT16_CAST_OPSET:
        raise RecipeError(
            f"bfloat16 needs opset {_BFLOAT16_CAST_OPSET}, the prepared model has {opset}; use `float_type: float16`, "
            "or leave out `passes`, which keeps the model from being converted"
        )
    constants = _constants(plan, model, recipe.float_type)
    chooser = _Chooser(wanted=recipe.float_type, target=target, opset=opset, constants=constants)
    pairs = list(zip(plan.decisions, nodes(model), strict=True))
    chosen = {decision.node: chooser.choose(decision, node) for decision, (_, node) in pairs}
    names = {node: decision.node for decision, (_, node) in pairs}
    for group in _groups([node for _, (_, node) in pairs if _converted(chosen[names[node]])]):
        if not any(_is_product(node) for node in group):
            text = (
                f"no product among its neighbours runs in {recipe.float_type}, and converting costs more than is saved"
            )
            chosen |= dict.fromkeys((names[node] for node in group), _keep("cheaper-in-float32", text))
    decisions = tuple(
        replace(entry, float_type=choice.float_type, float_reason=choice.reason)
        if (choice := chosen[entry.node]) is not None
        else entry
        for entry in plan.decisions
    )
    return replace(plan, decisions=decisions, constants=constants, warnings=(*plan.warnings, *_warnings(constants)))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Choice:
    float_type: FloatType
    reason: Reason


def _keep(code: str, text: str) -> _Choice:
    return _Choice(float_type=FloatType.FLOAT32, reason=Reason(code=code, text=text))


def _converted(choice: _Choice | None) -> bool:
    return choice is not None and choice.float_type is not FloatType.FLOAT32


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chooser:
    """Chooses the type for one node at a time, whatever its neighbours have."""

    wanted: FloatType
    target: Target
    opset: int
    constants: Mapping[str, ConstantPlan]

    def choose(self, decision: Decision, node: ir.Node) -> _Choice | None:
        """Return type and reason for a node, None if it has no floats."""
        import onnx_ir as ir

        values = [value for value in (*node.inputs, *node.outputs) if value is not None]
        if not any(value.dtype == ir.DataType.FLOAT for value in values):
            return None
        op = op_key(node)
        if decision.action is Action.QUANTIZE:
            if decision.format is not Format.WEIGHT_ONLY or decision.kernel != MATMUL_NBITS:
                return _keep("quantized", "is quantized, and its scales are float32")
            op = f"{CONTRIB}::{decision.kernel}"
        listed = self.target.floats.get(self.wanted, frozenset())
        if listed and node.op_type in _NEEDS_FLOAT32 and not node.domain:
            return _keep("precision", f"what {op} sums up or computes on the way does not fit {self.wanted}")
        if op not in listed:
            text = f"target {self.target.name} lists no kernel for {op} in {self.wanted}"
            return _keep("no-kernel", f"{text}; constants are stored in it and cast when the model loads")
        if decision.action is Action.QUANTIZE and (wrong := self._scales(decision, node)) is not None:
            return wrong
        return self._fits(node) or _Choice(
            float_type=self.wanted,
            reason=Reason(code="kernel", text=f"{op} runs in {self.wanted} on target {self.target.name}"),
        )

    def _scales(self, decision: Decision, node: ir.Node) -> _Choice | None:
        """Return why the scales of a node's codes cannot be of the node's type."""
        weight = moved_tensor(node.inputs[1])
        # A scale is a block's largest magnitude over half the number of codes, which is 128 at most.
        wrong = None if weight is None else misfit(weight.numpy() * np.float32(1 / 128), self.wanted)
        return None if wrong is None else _keep("constant", f"a 128th of '{decision.inputs[1]}' {wrong}")

    def _fits(self, node: ir.Node) -> _Choice | None:
        """Return why a node that has a kernel cannot use it."""
        slots = float_slots(node, self.opset, self.wanted)
        if not slots.inputs or not slots.complete:
            return _keep("type", "an attribute or the operator's definition sets the type of what it returns")
        for slot in slots.inputs:
            constant = self.constants.get(node.inputs[slot].name or "")  # type: ignore[union-attr]
            if constant is not None and constant.float_type is FloatType.FLOAT32 and constant.reason.code == "misfit":
                return _keep("constant", f"'{node.inputs[slot].name}' {constant.reason.text}")  # type: ignore[union-attr]
        return None


def _constants(plan: Plan, model: ir.Model, wanted: FloatType) -> dict[str, ConstantPlan]:
    """Return how every float32 initializer is stored that does not become codes."""
    import onnx_ir as ir

    codes = {tensor.tensor for tensor in plan.tensors.values()}
    plans: dict[str, ConstantPlan] = {}
    for scope in scopes(model):
        for name, value in scope.initializers.items():
            tensor = value.const_value
            if tensor is None or tensor.dtype != ir.DataType.FLOAT or value.is_graph_input() or name in codes:
                continue
            wrong = misfit(tensor.numpy(), wanted)
            if wrong is not None:
                plans[name] = _constant(FloatType.FLOAT32, "misfit", wrong)
            elif name in plans and plans[name].float_type is FloatType.FLOAT32:  # bodies may share a name
                continue
            elif value.is_graph_output():
                plans[name] = _constant(FloatType.FLOAT32, "output", "is an output, which keeps its type")
            elif tensor.nbytes // 2 <= _CAST_BYTES:
                plans[name] = _constant(FloatType.FLOAT32, "small", "a Cast would take more bytes than it saves")
            else:
                plans[name] = _constant(wanted, "stored", f"stored in {wanted}; only rounding is lost")
    return plans


def _constant(float_type: FloatType, code: str, text: str) -> ConstantPlan:
    return ConstantPlan(float_type=float_type, reason=Reason(code=code, text=text))


def _groups(members: Sequence[ir.Node]) -> Iterable[list[ir.Node]]:
    """Yield the nodes that hang together by the values they hand on to each other."""
    left = dict.fromkeys(members)
    while left:
        start = next(iter(left))
        del left[start]
        group = [start]
        for node in group:
            near = [value.producer() for value in node.inputs if value is not None]
            near += [use.node for value in node.outputs for use in value.uses()]
            for other in near:
                if other is not None and other in left:
                    del left[other]
                    group.append(other)
        yield group


def _is_product(node: ir.Node) -> bool:
    """Return whether a node multiplies and adds up: what 16 bits make faster."""
    key = op_key(node)
    return key in facts and facts.get(key).macs is not None


def _warnings(constants: Mapping[str, ConstantPlan]) -> tuple[str, ...]:
    """Name the constants that the type cannot hold."""
    wrong = [f"'{name}' {entry.reason.text}" for name, entry in constants.items() if entry.reason.code == "misfit"]
    if not wrong:
        return ()
    more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return (f"stays in float32: {'; '.join(wrong[:3])}{more}",)
