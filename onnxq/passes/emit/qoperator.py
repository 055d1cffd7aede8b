"""QOperator: each planned node becomes the integer operator itself, and codes flow from one to the next.

    producer -> [QuantizeLinear] -> QLinearConv -> QLinearAdd -> ... -> [DequantizeLinear] -> reader in float

The plan is the one that the QDQ form is written from, and the arithmetic is what onnxruntime makes of that form: a node
whose decision lists an output writes codes, and whatever reads them in float gets their one dequantized form. A clamp
that the plan absorbs disappears: codes that saturate at its bounds do its work. Weights and biases are codes stored
beside their parameters; nothing of them is left in float.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxq.errors import PlanError
from onnxq.numerics.affine import storage_array
from onnxq.ops import clamp_bounds, facts
from onnxq.ops.quantized import OUTPUT, QUANTIZED_OPERATORS, QuantizedOperator
from onnxq.passes import register_pass
from onnxq.passes.emit.editor import Editor
from onnxq.passes.emit.emitter import DecisionWriter, Emitter
from onnxq.types.format import Format
from onnxq.types.plan import Decision, Role, TensorPlan
from onnxq.types.scheme import PerChannel, QuantParams, QuantType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@register_pass("emit-qoperator", preserves_semantics=False)
class EmitQOperator(Emitter):
    """Replace nodes by the integer operators that the plan names (format qoperator)."""

    fmt = Format.QOPERATOR

    def writer(self, editor: Editor) -> DecisionWriter:
        """See `Emitter`."""
        return _QOperatorWriter(editor)


class _QOperatorWriter(DecisionWriter):
    """Writes integer operators; remembers the codes and parameters of every tensor so far."""

    def __init__(self, editor: Editor) -> None:
        super().__init__(editor)
        self._codes: dict[str, ir.Value] = {}
        self._constant_params: dict[str, QuantParams] = {}
        self._parameters: dict[str, tuple[ir.Value, ir.Value]] = {}
        self._columns: dict[str, tuple[ir.Value, ir.Value]] = {}
        self._float: dict[str, ir.Value] = {}
        self._absorbed: dict[ir.Node, Decision] = {}
        self._old: dict[ir.Node, None] = {}
        self._behind: list[ir.Node] = []
        for key in editor.emitted:
            tensor = editor.tensor(key)
            self._codes[key] = self._code_value(tensor, editor.activation_params(tensor))

    def in_order(self, decisions: Iterable[Decision]) -> Iterable[Decision]:
        """Put absorbed clamps first: the operators that absorb them are written otherwise."""
        return sorted(decisions, key=lambda decision: decision.kernel is not None)

    def _absorb(self, decision: Decision) -> None:
        """Note that a node's codes do the work of the clamp behind it, and make sure that they do."""
        node = self.editor.node(decision)
        bounds = clamp_bounds(node)
        value = node.inputs[0]
        producer = None if value is None else value.producer()
        if bounds is None or producer is None or list(decision.outputs) != [0]:
            raise PlanError(
                f"the plan quantizes '{decision.node}' ({decision.op}) and names no kernel for it; plan again"
            )
        params = self.editor.activation_params(self.editor.tensor(decision.outputs[0]))
        dtype, zero_point, scale = params.scheme.dtype, int(params.zero_point), float(params.scale)
        lowest, highest = ((code - zero_point) * scale for code in (dtype.minimum, dtype.maximum))
        if lowest < bounds.low or highest > bounds.high:
            raise PlanError(
                f"codes of '{decision.outputs[0]}' represent {lowest:.6g} to {highest:.6g}, beyond the bounds of "
                f"'{decision.node}' ({decision.op}), so they cannot do its work; plan again"
            )
        self._absorbed[producer] = decision
        self._old[node] = None

    def carry_out(self, decision: Decision) -> None:
        """Write an integer operator beside the node that it replaces."""
        name = decision.kernel
        if name is None:
            self._absorb(decision)
            return
        node = self.editor.node(decision)
        outputs = decision.outputs
        if node in self._absorbed:
            outputs = self._absorbed[node].outputs
        operator = QUANTIZED_OPERATORS.get(name)
        if operator is None:
            has_form = name == node.op_type
        else:
            has_form = operator.float_op is not None and Format.QOPERATOR in operator.formats
        if not has_form:
            raise PlanError(
                f"'{decision.node}': kernel '{name}' has no form in format qoperator; keep the node in float"
            )
        if not outputs and (operator is None or not operator.float_output):
            raise PlanError(f"'{decision.node}': the plan wants a float output, which {name} cannot give; plan again")
        if operator is None:
            self._check_moves(decision)
            inputs = [self._value(node, slot, decision) for slot in range(len(node.inputs))]
            attributes, domain = dict(node.attributes), node.domain
        else:
            self._check_inputs(decision, node)
            inputs = self._inputs(operator, node, decision, outputs.get(0))
            attributes, domain = _attributes(operator, node, self.editor.opset), operator.domain
        values = [self._output(node, slot, outputs) for slot in range(len(node.outputs))]
        written = self.editor.writer.node(name, inputs, values, attributes=attributes, name=node.name, domain=domain)
        written.doc_string = node.doc_string
        written.metadata_props.update(node.metadata_props)
        self.editor.insert_behind(node.outputs[0], [written])
        self._old[node] = None
        for slot, value in enumerate(written.outputs):
            if slot not in outputs:
                self.editor.replace(node.outputs[slot], value)

    def finish(self) -> None:
        """Dequantize what is read in float, insert what belongs behind new nodes, and take out the old ones."""
        for key in self.editor.emitted:
            value = self.editor.values[self.editor.tensor(key).tensor]
            if value.is_graph_output() or any(use.node not in self._old for use in value.uses()):
                self.float_value(key)
        for key, result in self._float.items():
            self.editor.replace(self.editor.values[self.editor.tensor(key).tensor], result)
        for node in self._behind:
            (source, *_) = node.inputs
            assert source is not None
            self.editor.insert_behind(source, [node])
        read = [value for node in self._old for value in node.inputs if value is not None]
        self.editor.remove(self._old)
        self.editor.drop_unread(dict.fromkeys(read))

    def codes(self, key: str) -> ir.Value:
        """Return the codes of a planned tensor; those of an activation that nothing computes are quantized here."""
        if key not in self._codes:
            tensor = self.editor.tensor(key)
            if tensor.role is Role.ACTIVATION:
                self._codes[key] = self._quantized(tensor)
            else:
                self._codes[key], self._constant_params[key] = self.editor.codes_and_params(key)
        return self._codes[key]

    def params(self, key: str) -> QuantParams:
        """Return the parameters of a planned tensor."""
        tensor = self.editor.tensor(key)
        if tensor.role is Role.ACTIVATION:
            return self.editor.activation_params(tensor)
        self.codes(key)
        return self._constant_params[key]

    def parameters(self, key: str) -> tuple[ir.Value, ir.Value]:
        """Return the stored scale and zero point of a planned tensor; tensors that share them share the storage."""
        shares = self.editor.tensor(key).shares
        if shares is not None and self.params(shares) == self.params(key):
            return self.parameters(shares)
        if key not in self._parameters:
            self._parameters[key] = self.editor.parameters(key, self.params(key))
        return self._parameters[key]

    def columns(self, key: str) -> tuple[ir.Value, ir.Value]:
        """Return the stored parameters of a stack of matrices: per channel, of shape [..., 1, columns]."""
        params, shape = self.params(key), self.codes(key).shape
        if not isinstance(params.scheme.granularity, PerChannel) or shape is None or len(shape) < 3:
            return self.parameters(key)
        if key not in self._columns:
            stack = (*shape.numpy()[:-2], 1, shape.numpy()[-1])
            self._columns[key] = (
                self.editor.constant(f"{key}/scale", np.broadcast_to(params.scale, stack)),
                self.editor.constant(
                    f"{key}/zero_point",
                    storage_array(np.broadcast_to(params.zero_point, stack), params.scheme.dtype),
                ),
            )
        return self._columns[key]

    def float_value(self, key: str) -> ir.Value:
        """Return the dequantized form of a tensor that a node writes as codes."""
        if key not in self._float:
            codes, params = self._codes[key], self.params(key)
            node = self.editor.dequantize(codes, *self.parameters(key), f"{key}/dequantized", params)
            self._float[key] = node.outputs[0]
            self._behind.append(node)
        return self._float[key]

    def _value(self, node: ir.Node, slot: int, decision: Decision) -> ir.Value | None:
        """Return the codes of an input that is quantized, else the input unchanged."""
        return self.codes(decision.inputs[slot]) if slot in decision.inputs else node.inputs[slot]

    def _inputs(
        self, operator: QuantizedOperator, node: ir.Node, decision: Decision, output: str | None
    ) -> list[ir.Value | None]:
        """Return the inputs of the integer operator for a node; `output`: plan key, None where it is float."""
        placed: dict[int, tuple[ir.Value | None, ...]] = {}
        for operand in operator.order(len(node.inputs)):
            if operand == OUTPUT:
                placed[operand] = () if output is None else (None, *self.parameters(output))
            elif len(operator.slots(operand)) == 1:
                placed[operand] = (self._value(node, operand, decision),)
            else:
                key = decision.inputs[operand]
                column = operator.float_op == "MatMul" and operand in operator.weights
                placed[operand] = (self.codes(key), *(self.columns(key) if column else self.parameters(key)))
        return operator.arrange(placed)

    def _quantized(self, tensor: TensorPlan) -> ir.Value:
        """Quantize an activation that is computed in float, or one that is written in another form of codes."""
        if tensor.tensor in self.editor.emitted:
            source = self.float_value(tensor.tensor)
        else:
            source = self.editor.values[tensor.tensor]
        node = self.editor.writer.quantize(source, *self.parameters(tensor.name), f"{tensor.name}/quantized")
        self._behind.append(node)
        return node.outputs[0]

    def _code_value(self, tensor: TensorPlan, params: QuantParams) -> ir.Value:
        """Return a value for the codes of a tensor, to be the output of the operator that computes them."""
        dtype = ir.DataType.from_numpy(storage_array(params.zero_point, params.scheme.dtype).dtype)
        shape = self.editor.values[tensor.tensor].shape
        return ir.val(self.editor.writer.name(f"{tensor.name}/quantized"), dtype=dtype, shape=shape)

    def _output(self, node: ir.Node, slot: int, outputs: Mapping[int, str]) -> ir.Value:
        old = node.outputs[slot]
        if slot in outputs:
            return self._codes[outputs[slot]]
        return ir.val(self.editor.writer.name(f"{old.name}/written"), type=old.type, shape=old.shape)

    def _check_inputs(self, decision: Decision, node: ir.Node) -> None:
        """Make sure that an integer operator takes inputs of these types and parameters."""
        fact = facts.get(decision.op)
        dtypes = [self.params(key).scheme.dtype for key in decision.inputs.values()]
        if dtypes[0] is QuantType.INT8 and QuantType.UINT8 in dtypes:
            raise PlanError(
                f"'{decision.node}' ({decision.op}): {decision.kernel} multiplies int8 activations with int8 weights "
                "only; choose uint8 activations or int8 weights"
            )
        for slot, key in decision.inputs.items():
            granularity = self.params(key).scheme.granularity
            if slot != fact.weight or not isinstance(granularity, PerChannel) or fact.channel_axis is None:
                continue
            axis = fact.channel_axis(node, len(self.codes(key).shape or ()))
            if granularity.axis != axis:
                raise PlanError(
                    f"'{decision.node}' ({decision.op}): {decision.kernel} takes weights per channel along axis {axis} "
                    f"only, not {granularity.axis}; leave the axis out"
                )

    def _check_moves(self, decision: Decision) -> None:
        """Make sure that an operator that moves codes writes them with the parameters that it reads them with."""
        (source,) = (self.params(key) for key in decision.inputs.values())
        for key in decision.outputs.values():
            if self.params(key) != source:
                raise PlanError(
                    f"'{decision.node}' ({decision.op}) moves codes, but the plan gives '{key}' other parameters than "
                    "its input; plan again"
                )


def _attributes(operator: QuantizedOperator, node: ir.Node, opset: int) -> dict[str, ir.Attr]:
    """Return the attributes of the integer operator for a float node.

    Raises:
        PlanError: it lacks one that the node needs.
    """
    name = operator.lacking(node)
    if name is not None:
        raise PlanError(
            f"'{node.name}' ({node.op_type}): its integer kernel has no attribute '{name}'; keep it in float"
        )
    kept = {name: entry for name, entry in node.attributes.items() if name in operator.attributes}
    kept |= {name: ir.AttrInt64(name, value) for name, value in operator.defaults(node, opset).items()}
    return kept
