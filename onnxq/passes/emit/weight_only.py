"""Weight-only: weights become codes, activations and arithmetic stay in float.

    MatMulNBits           x [.., K] times codes [N, blocks, bytes of a block], scales [N, blocks]; Gemm's bias behind it
    GatherBlockQuantized  rows of codes [rows, bytes of a row], scales [rows, blocks]
    DequantizeLinear      codes -> [DequantizeLinear] -> reader, for every other operator and in models for any runtime
    Gather                indices -> [Gather] of a table of values -> reader; see codebooks

Operators: ONNX specification of DequantizeLinear, opset 13 (per channel), 21 (blocks, 4 bits) and 25 (2 bits);
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md for those of com.microsoft.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx_ir as ir

from onnxq.errors import PlanError
from onnxq.graph.walk import input_at
from onnxq.numerics.affine import storage_array
from onnxq.ops.quantized import BIAS, MATMUL_NBITS, QUANTIZED_OPERATORS
from onnxq.passes import register_pass
from onnxq.passes.emit.block_weights import BlockWeights, StoredMatrix
from onnxq.passes.emit.codebooks import Codebooks
from onnxq.passes.emit.editor import Editor
from onnxq.passes.emit.emitter import DecisionWriter, Emitter
from onnxq.passes.emit.node_builder import NodeBuilder, unpack_bits
from onnxq.types.accuracy import ROUNDS
from onnxq.types.format import Format
from onnxq.types.plan import Decision, Detour

_PRODUCT, _LOOKUP = QUANTIZED_OPERATORS[MATMUL_NBITS], QUANTIZED_OPERATORS["GatherBlockQuantized"]


@register_pass("emit-weight-only", preserves_semantics=False)
class EmitWeightOnly(Emitter):
    """Store weights as codes where the plan says (format weight-only)."""

    fmt = Format.WEIGHT_ONLY

    def writer(self, editor: Editor) -> DecisionWriter:
        """See `Emitter`."""
        return _WeightOnlyWriter(editor)


class _WeightOnlyWriter(DecisionWriter):
    """Rewires nodes; remembers the form of each weight."""

    def __init__(self, editor: Editor) -> None:
        super().__init__(editor)
        self._matrices = BlockWeights(editor)
        self._codebooks = Codebooks(editor)
        self._dequantized: dict[str, ir.Value] = {}
        self._tables: dict[str, StoredMatrix] = {}
        self._replaced: dict[ir.Value, None] = {}

    def in_order(self, decisions: Iterable[Decision]) -> Iterable[Decision]:
        """Put first what a shared weight is stored for: MatMulNBits, or else lookups of rows."""
        return sorted(decisions, key=lambda entry: (entry.kernel != MATMUL_NBITS, entry.op != "Gather"))

    def carry_out(self, decision: Decision) -> None:
        """Rewrite one node."""
        node = self.editor.node(decision)
        kernels: dict[str | None, Callable[[ir.Node, Decision], None]] = {
            _PRODUCT.name: self._product,
            _LOOKUP.name: self._lookup,
            "DequantizeLinear": self._portable_lookup if node.op_type == "Gather" else self._unpack,
            "Gather": self._codebook_lookup if node.op_type == "Gather" else self._decode,
        }
        if decision.kernel not in kernels:
            raise PlanError(
                f"'{decision.node}': kernel '{decision.kernel}' has no form in format weight-only; plan again"
            )
        self._replaced.update((value, None) for slot in decision.inputs if (value := node.inputs[slot]) is not None)
        kernels[decision.kernel](node, decision)

    def finish(self) -> None:
        """Take out the float constants that nothing reads any more."""
        self.editor.drop_unread(self._replaced)

    def _product(self, node: ir.Node, decision: Decision) -> None:
        """x W: MatMulNBits. alpha A B + beta C: the same, scaled, and an Add."""
        matrix = self._matrices.for_product(decision.inputs[1], by_row=bool(node.attributes.get_int("transB", 0)))
        alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
        addend = input_at(node, 2)
        fits = addend is not None and addend.shape is not None and addend.shape == ir.Shape([matrix.rows])
        inside = fits and alpha == beta == 1.0
        attributes = {
            "K": matrix.columns,
            "N": matrix.rows,
            "bits": matrix.bits,
            "block_size": matrix.block,
            "accuracy_level": ROUNDS if decision.accuracy_level is None else decision.accuracy_level,
        }
        build = self._build(node)
        weight = (matrix.codes, matrix.scale, matrix.zero_point)
        inputs = _PRODUCT.arrange({0: node.inputs[:1], 1: weight, BIAS: (addend if inside else None,)})
        result = build(_PRODUCT.name, *inputs, attributes=attributes, node=node.name)
        if alpha != 1.0:
            result = build("Mul", result, build.constant(alpha))
        if addend is not None and not inside:
            self._replaced[addend] = None
            result = build("Add", result, addend if beta == 1.0 else build("Mul", addend, build.constant(beta)))
        self._replace(node, build, result)

    def _lookup(self, node: ir.Node, decision: Decision) -> None:
        build = self._build(node)
        matrix = self._matrices.for_lookup(decision.inputs[0])
        codes = matrix.codes
        if codes.shape is not None and len(codes.shape) == 3:  # stored for a product
            codes = build("Reshape", codes, build.constant([0, -1], np.int64))
        attributes = {"bits": matrix.bits, "block_size": matrix.block, "gather_axis": 0, "quantize_axis": 1}
        inputs = _LOOKUP.arrange({0: (codes, matrix.scale, matrix.zero_point), 1: node.inputs[1:2]})
        result = build(_LOOKUP.name, *inputs, attributes=attributes, node=node.name)
        self._replace(node, build, result)

    def _portable_lookup(self, node: ir.Node, decision: Decision) -> None:
        """Look up bytes and scales, unpack codes of fewer bits, and dequantize the rows looked up."""
        key, indices = decision.inputs[0], node.inputs[1]
        assert indices is not None
        assert indices.shape is not None
        rank = len(indices.shape)
        if key not in self._tables:
            signed = any(Detour.SIGNED_TABLE in each.detours for each in self.editor.readers(key))
            self._tables[key] = self._matrices.for_portable_lookup(key, signed=signed)
        table, build = self._tables[key], self._build(node)
        codes = build("Gather", table.codes, indices, node=node.name)
        if table.bits < 8:
            codes = unpack_bits(build, codes, bits=table.bits, shape=[0] * rank + [table.columns])
            if table.zero_point is not None and table.zero_point.dtype == ir.DataType.INT8:
                codes = build("Cast", codes, attributes={"to": ir.DataType.INT8.value})
        scale = build("Gather", table.scale, indices)
        zero_point = None if table.zero_point is None else build("Gather", table.zero_point, indices)
        attributes = {"axis": rank, "block_size": table.block}
        self._replace(node, build, build("DequantizeLinear", codes, scale, zero_point, attributes=attributes))

    def _codebook_lookup(self, node: ir.Node, decision: Decision) -> None:
        build = self._build(node)
        self._replace(node, build, self._codebooks.look_up(build, decision.inputs[0], node.inputs[1]))

    def _build(self, node: ir.Node) -> NodeBuilder:
        return NodeBuilder(self.editor, node.name or node.op_type)

    def _replace(self, node: ir.Node, build: NodeBuilder, result: ir.Value) -> None:
        build.replace(node, [result])
        self.editor.remove([node])

    def _decode(self, node: ir.Node, decision: Decision) -> None:
        """Put the tables' values in front of every weight."""
        for slot, key in decision.inputs.items():
            node.replace_input_with(slot, self._codebooks.decoded(key, node))

    def _unpack(self, node: ir.Node, decision: Decision) -> None:
        """Put DequantizeLinear in front of every weight."""
        for slot, key in decision.inputs.items():
            if key not in self._dequantized:
                self._dequantized[key] = self._dequantize(key, node)
            node.replace_input_with(slot, self._dequantized[key])

    def _dequantize(self, key: str, reader: ir.Node) -> ir.Value:
        codes, params = self.editor.codes_and_params(key)
        scale, zero_point = self.editor.constant(f"{key}/scale", params.scale, of=key), None
        if params.zero_point.any():
            stored = storage_array(params.zero_point, params.scheme.dtype)
            zero_point = self.editor.constant(f"{key}/zero_point", stored, of=key)
        node = self.editor.dequantize(codes, scale, zero_point, f"{key}/dequantized", params)
        self.editor.insert_before(reader, node)
        return node.outputs[0]
