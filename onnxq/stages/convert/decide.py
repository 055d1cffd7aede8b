"""The plan of a model that came quantized: its own parameters, written in another format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from onnxq.graph.constants import constant_tensor
from onnxq.graph.fingerprint import fingerprint
from onnxq.graph.marks import marked_accuracy
from onnxq.graph.names import name_of
from onnxq.graph.walk import nodes
from onnxq.ops import facts, op_key
from onnxq.ops.quantized import MATMUL_NBITS, QUANTIZED_OPERATORS
from onnxq.passes.read.constants import Constant
from onnxq.passes.read.qdq import Group, Imported
from onnxq.stages.convert.pair_safe import ChosenAgain, chosen_again, warning_about
from onnxq.stages.plan.already_quantized import ALREADY, IMPORTED
from onnxq.stages.plan.kernel_choice import choose
from onnxq.stages.plan.rules import Wish
from onnxq.targets import Output, Row, Target
from onnxq.targets.faults import WriteRequest, avoid
from onnxq.targets.pair_sums import PRODUCTS, product_of
from onnxq.types.accuracy import ROUNDS
from onnxq.types.format import Format
from onnxq.types.plan import Action, Decision, PairLimit, Plan, Reason, Role, TensorPlan
from onnxq.types.recipe import Recipe
from onnxq.types.scheme import PerChannel, PerTensor, QuantParams, QuantType, Scheme

if TYPE_CHECKING:
    import onnx_ir as ir


def imported_plan(
    model: ir.Model, found: Imported, recipe: Recipe, target: Target
) -> tuple[Plan, Mapping[str, str], frozenset[str]]:
    """Return a plan that writes what a model came with in a format, and the nodes for which there is no such form.

    Args:
        model: lifted. found: what it came with. recipe: names the format to write. target: what will run it.

    Returns:
        The plan; by path name of a node why it cannot be written so (the plan holds only where there is none); and
        which of these nodes are in the format already, in the one form that it has for them.
    """
    maker = _Maker(found, recipe, target, model.opset_imports.get("", 1))
    decisions, refused = [], {}
    clamps = {group.clamp: name for name, group in found.groups.items() if group.clamp is not None}
    for name, node in nodes(model):
        if name in clamps:
            decisions.append(maker.absorbed(name, node, clamps[name]))
        elif name not in found.groups:
            reason = Reason(code=ALREADY, text="stays as it came")
            decisions.append(Decision(node=name, op=op_key(node), action=Action.KEEP, reason=reason))
        else:
            made = maker.decision(name, node, found.groups[name])
            if isinstance(made, str):
                refused[name] = made
            else:
                decisions.append(made)
    plan = Plan(
        format=recipe.format,
        target=target.name,
        fingerprint=fingerprint(model),
        decisions=tuple(decisions),
        tensors=maker.tensors,
        warnings=tuple(filter(None, [warning_about(maker.chosen_again.values())])),
    )
    return plan, refused, frozenset(maker.in_form)


def codes_would_change(written: WriteRequest) -> str:
    """Return why imported codes are not written in the one way around a fault that there is."""
    return f"its codes would have to change: {'; '.join(written.notes)}"


class _Maker:
    """Makes decisions, and the tensors that they name."""

    def __init__(self, found: Imported, recipe: Recipe, target: Target, opset: int) -> None:
        self.tensors: dict[str, TensorPlan] = {}
        self.in_form: set[str] = set()
        self.chosen_again: dict[str, ChosenAgain] = {}
        self._found = found
        self._opset = opset
        self._fmt = recipe.format
        self._target = target
        self._portable = recipe.portable
        self._accuracy = recipe.accuracy_level

    def absorbed(self, name: str, node: ir.Node, producer: str) -> Decision:
        """Return the decision on a clamp whose work quantization does."""
        reason = Reason(code=IMPORTED, text=f"clamps the output of '{producer}'; quantizing its result does that work")
        return Decision(
            node=name,
            op=op_key(node),
            action=Action.QUANTIZE,
            reason=reason,
            format=self._fmt,
            outputs={0: self._activation(node.outputs[0])},
        )

    def decision(self, name: str, node: ir.Node, group: Group) -> Decision | str:
        """Return the decision on a node that came quantized, or why it has no such form."""
        row = self._row(name, node, group)
        if isinstance(row, str):
            return row
        around = None if row is None else self._around(node, group, row)
        if isinstance(around, str):
            return around
        op = op_key(node)
        kernel = node.op_type
        if row is not None:
            kernel = row.kernel if group.output or not row.float_kernel else row.float_kernel
        inputs = {slot: self._activation(node.inputs[slot]) for slot in group.activations}
        fact = facts.get(op)
        for slot in group.constants:
            if slot != fact.bias:
                inputs[slot] = self._constant(node, slot, group)
        bias = self._bias(node, group, row, inputs)
        if isinstance(bias, str):
            return bias
        inputs |= bias
        outputs = {}
        if group.output and group.clamp is None:
            outputs = {slot: self._activation(node.outputs[slot]) for slot in fact.output_slots(node)}
        return Decision(
            node=name,
            op=op,
            action=Action.QUANTIZE,
            reason=Reason(
                code=IMPORTED,
                text="; ".join((self._what_runs(inputs, kernel), *(around.notes if around else ()))),
            ),
            format=self._fmt,
            inputs=dict(sorted(inputs.items())),
            outputs=outputs,
            kernel=kernel,
            accuracy_level=self._level(node) if kernel == MATMUL_NBITS else None,
            detours=() if around is None else around.detours,
        )

    def _what_runs(self, inputs: Mapping[int, str], kernel: str) -> str:
        again = next((self.chosen_again[key] for key in inputs.values() if key in self.chosen_again), None)
        if again is None:
            return f"came quantized; its codes and parameters run as {kernel}"
        return f"came quantized; its weight, on codes chosen again ({again.loss:.1f} dB from its own), runs as {kernel}"

    def _around(self, node: ir.Node, group: Group, row: Row) -> WriteRequest | str:
        """Return how a node is written around faults of the runtime, or why its codes cannot be."""
        defaults, weight = self._target.defaults[self._fmt], facts.get(op_key(node)).weight
        held = [self._found.constants[name_of(node.inputs[slot])] for slot in group.constants if slot == weight]
        running = [self._params(node.inputs[slot]).scheme for slot in group.activations]
        level = self._level(node)  # 0 is a level too: the runtime's choice, which rounds nothing
        usual = WriteRequest(
            node=node,
            opset=self._opset,
            row=row,
            activations=running[0] if running else defaults.activations,
            weights=held[0].params.scheme if held else defaults.weights,
            slots=tuple(slot for slot in group.constants if slot == weight),
            portable=self._portable,
            accuracy_level=ROUNDS if level is None else level,
            lowest_code=held[0].lowest if held else None,
        )
        found = avoid(usual, self._target.faults)
        if isinstance(found, WriteRequest) and (found.weights, found.accuracy_level) != (
            usual.weights,
            usual.accuracy_level,
        ):
            return codes_would_change(found)
        return found

    def _level(self, node: ir.Node) -> int | None:
        """Return the accuracy level of a product: that asked for, else the one that it came with."""
        return marked_accuracy(node) if self._accuracy is None else self._accuracy

    def _row(self, name: str, node: ir.Node, group: Group) -> Row | str | None:
        """Return the target's row for a node, None where Q and DQ do without, or why there is none."""
        fact = facts.get(op_key(node))
        weight = None if fact.weight not in group.constants else self._params(node.inputs[fact.weight or 0])
        rows = self._target.rows_for(op_key(node), self._fmt, portable=self._portable)
        if self._fmt is Format.WEIGHT_ONLY:
            rows = tuple(row for row in rows if row.contrib is not self._portable)
        if not rows and self._fmt is not Format.QDQ:
            return f"{node.op_type} has no kernel in format {self._fmt}"
        running = [self._params(node.inputs[slot]) for slot in group.activations]
        defaults = self._target.defaults_for(op_key(node)).get(self._fmt)
        if defaults is None:
            return f"target {self._target.name} runs nothing in format {self._fmt}"
        wish = Wish(
            keep=None,
            rule=None,
            format=self._fmt,
            portable=self._portable,
            activations=running[0].scheme if running else defaults.activations,
            weights=defaults.weights if weight is None else weight.scheme,
            method="rtn",
        )
        row = choose(rows, node, wish, weighted=weight is not None, refuses=lambda row: None)
        found = row if isinstance(row, Row) else None
        if self._fmt is Format.QDQ:
            return found
        if found is None:
            others = self._target.rows_for(op_key(node), self._fmt, portable=True)
            only = choose(others, node, wish, weighted=weight is not None, refuses=lambda row: None)
            if self._fmt is Format.WEIGHT_ONLY and isinstance(only, Row) and not self._is_moved(node, group):
                self.in_form.add(name)
            return row[1] if isinstance(row, tuple) else ""
        return self._mismatch(node, group, found) or found

    def _is_moved(self, node: ir.Node, group: Group) -> bool:
        """Tell whether codes go through other nodes before this one reads them."""
        values = (node.inputs[slot] for slot in group.constants)
        return any(self._found.constants[value.name or ""].moves for value in values if value is not None)

    def _mismatch(self, node: ir.Node, group: Group, row: Row) -> str | None:
        """Return what an integer operator does not take of what a node came with, None if it takes everything."""
        if self._fmt is Format.WEIGHT_ONLY:
            return None
        fact = facts.get(op_key(node))
        if not group.output and row.output is Output.REQUIRED:
            return "its output is not quantized"
        slots = (*group.activations, *(slot for slot in group.constants if slot not in (fact.weight, fact.bias)))
        params = [self._params(node.inputs[slot]) for slot in slots]
        if any(each.scheme.dtype is not params[0].scheme.dtype or each.scale.ndim for each in params):
            return "its inputs came in several types"
        ends = [self._params(value) for value in node.outputs] if group.output and group.clamp is None else []
        if any(each.scheme.dtype is not params[0].scheme.dtype for each in ends):
            return "its output came in another type"
        if row.kernel == node.op_type and any(
            (end.scale != params[0].scale).any() or (end.zero_point != params[0].zero_point).any() for end in ends
        ):
            return "it moves codes, and its output came with other parameters than its input"
        kernel = QUANTIZED_OPERATORS.get(row.kernel)
        if kernel is not None and kernel.lacking(node) is not None:
            return "its kernel lacks one of its attributes"
        return None

    def _bias(self, node: ir.Node, group: Group, row: Row | None, inputs: Mapping[int, str]) -> dict[int, str] | str:
        """Return slot and plan key of a bias on codes, nothing where it stays in float, or why neither will do."""
        fact = facts.get(op_key(node))
        slot, weight = fact.bias, fact.weight
        value = node.inputs[slot] if slot is not None and slot < len(node.inputs) else None
        if slot is None or weight is None or value is None or not group.activations:
            return {}
        if slot not in group.constants and (self._fmt is Format.QDQ or (row is not None and row.float_bias)):
            return {}
        tensor = constant_tensor(value)
        if tensor is None or weight not in inputs:
            return "its bias is computed"
        per_channel = isinstance(self.tensors[inputs[weight]].scheme.granularity, PerChannel)
        held = self._found.constants.get(value.name or "")
        if held is not None and not self._follows(held.params, inputs[group.activations[0]], inputs[weight]):
            return "its bias came with another scale than the product of its activation's and its weight's"
        key = (
            f"{value.name}@{node.name}" if self._is_taken(value.name or "", inputs, weight, group) else value.name or ""
        )
        scheme = Scheme(
            dtype=QuantType.INT32, symmetric=True, granularity=PerChannel(axis=0) if per_channel else PerTensor()
        )
        self.tensors[key] = TensorPlan(
            name=key,
            tensor=value.name or "",
            role=Role.BIAS,
            scheme=scheme,
            scale_from=(inputs[group.activations[0]], inputs[weight]),
            reason="came with the model" if held is not None else "scale of the activation times scale of the weight",
        )
        return {slot: key}

    def _is_taken(self, name: str, inputs: Mapping[int, str], weight: int, group: Group) -> bool:
        """Tell whether another node's bias of that name is on other scales."""
        known = self.tensors.get(name)
        return known is not None and known.scale_from != (inputs[group.activations[0]], inputs[weight])

    def _follows(self, bias: QuantParams, activation: str, weight: str) -> bool:
        """Tell whether a bias has the scale that kernels take it to have."""
        import numpy as np

        source, other = self.tensors[activation].params, self._found.constants[self.tensors[weight].tensor].params
        if source is None or bias.scheme.dtype is not QuantType.INT32:
            return False
        product = source.scale.astype(np.float64) * other.scale
        return bool(np.allclose(bias.scale, product, rtol=1e-5, atol=0))

    def _activation(self, value: ir.Value | None) -> str:
        name = name_of(value)
        params = self._found.activations[name]
        self.tensors.setdefault(
            name,
            TensorPlan(
                name=name,
                tensor=name,
                role=Role.ACTIVATION,
                scheme=params.scheme,
                params=params,
                reason="came with the model",
            ),
        )
        return name

    def _constant(self, node: ir.Node, slot: int, group: Group) -> str:
        name = name_of(node.inputs[slot])
        held = self._found.constants[name]
        plan = TensorPlan(
            name=name, tensor=name, role=Role.WEIGHT, scheme=held.params.scheme, reason="came with the model"
        )
        again = chosen_again(plan, held, self._limit(node, slot, group, held))
        if again is not None:  # also for readers that could do without
            self.chosen_again[name] = again
            self.tensors[name] = again.tensor
        return self.tensors.setdefault(name, plan).name

    def _limit(self, node: ir.Node, slot: int, group: Group, held: Constant) -> PairLimit | None:
        """Return what the codes of a weight must keep to in the kernel that the node becomes, None for nothing."""
        key = op_key(node)
        if key not in PRODUCTS or slot != facts.get(key).weight or not group.activations:
            return None
        if key == "Conv" and not group.output:  # between DequantizeLinear and float: no integer kernel
            return None
        running = self._params(node.inputs[group.activations[0]]).scheme.dtype
        product = product_of(node, slot, fmt=self._fmt, activations=running, weights=held.params.scheme.dtype)
        return self._target.pair_limit(product, None)

    def _params(self, value: ir.Value | None) -> QuantParams:
        name = name_of(value)
        constant = self._found.constants.get(name)
        return self._found.activations[name] if constant is None else constant.params
