"""Weight-only: weights become codes, activations and arithmetic stay in float.

    MatMulNBits           x [.., K] times codes [N, blocks, bytes of a block], scales [N, blocks]; Gemm's bias behind it
    GatherBlockQuantized  rows of codes [rows, bytes of a row], scales [rows, blocks]
    DequantizeLinear      codes -> [DequantizeLinear] -> reader, for every other operator and in models for any runtime
    Gather                indices -> [Gather] of a table of values -> reader; see codebooks

Operators: ONNX specification of DequantizeLinear, opset 13 (per channel), 21 (blocks, 4 bits) and 25 (2 bits);
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md for those of com.microsoft.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from onnxq.errors import PlanError
from onnxq.passes import register_pass
from onnxq.passes.emit.chain import Chain, take_apart
from onnxq.passes.emit.codebooks import Codebooks
from onnxq.passes.emit.editor import Editor
from onnxq.passes.emit.emitter import CONTRIB, Emitter
from onnxq.passes.emit.matrices import Matrices, Stored
from onnxq.types.format import Format
from onnxq.types.plan import Decision

# Activations are rounded to 8 bits inside the kernel, 45 dB below them: less than 4-bit weights lose. On CPUs its other
# levels are up to 50 times slower than float.
_ACCURACY_LEVEL = 4


@register_pass("emit-weight-only", preserves_semantics=False)
class EmitWeightOnly(Emitter):
    """Store weights as codes where the plan says (format weight-only)."""

    form = Format.WEIGHT_ONLY

    def write(self, editor: Editor) -> None:
        """See `Emitter`."""
        writer = _Writer(editor)
        # Products before what looks rows up in the same weight: theirs is the form that a shared one is stored in.
        for decision in sorted(editor.decisions(), key=lambda entry: entry.kernel != "MatMulNBits"):
            writer.carry_out(decision)
        writer.finish()


class _Writer:
    """Rewires nodes; remembers which form of which weight it has made."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._matrices = Matrices(editor)
        self._codebooks = Codebooks(editor)
        self._dequantized: dict[str, ir.Value] = {}
        self._tables: dict[str, Stored] = {}
        self._replaced: dict[ir.Value, None] = {}

    def carry_out(self, decision: Decision) -> None:
        """Rewrite one node."""
        node = self._editor.node(decision)
        kernels: dict[str | None, Callable[[ir.Node, Decision], None]] = {
            "MatMulNBits": self._product,
            "GatherBlockQuantized": self._lookup,
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
        self._editor.drop_unread(self._replaced)

    def _product(self, node: ir.Node, decision: Decision) -> None:
        """x W: MatMulNBits. alpha A B + beta C: the same, scaled, and an Add."""
        matrix = self._matrices.for_product(decision.inputs[1], by_row=bool(node.attributes.get_int("transB", 0)))
        alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
        addend = node.inputs[2] if len(node.inputs) > 2 else None
        inputs = [node.inputs[0], matrix.codes, matrix.scale, matrix.zero_point]
        fits = addend is not None and addend.shape is not None and addend.shape == ir.Shape([matrix.rows])
        inside = fits and alpha == beta == 1.0
        attributes = {
            "K": matrix.columns,
            "N": matrix.rows,
            "bits": matrix.bits,
            "block_size": matrix.block,
            "accuracy_level": _ACCURACY_LEVEL,
        }
        chain = Chain(self._editor, node)
        chain.add("MatMulNBits", [*inputs, None, addend] if inside else inputs, attributes, domain=CONTRIB, heir=True)
        if alpha != 1.0:
            chain.add("Mul", [chain.result, chain.number(alpha)])
        if addend is not None and not inside:
            self._replaced[addend] = None
            product = chain.result
            chain.add("Add", [product, addend if beta == 1.0 else chain.add("Mul", [addend, chain.number(beta)])])
        chain.replace()

    def _lookup(self, node: ir.Node, decision: Decision) -> None:
        chain = Chain(self._editor, node)
        matrix = self._matrices.for_lookup(decision.inputs[0])
        codes = matrix.codes
        if codes.shape is not None and len(codes.shape) == 3:  # stored for a product
            codes = chain.add("Reshape", [codes, chain.integers([0, -1])])
        attributes = {"bits": matrix.bits, "block_size": matrix.block, "gather_axis": 0, "quantize_axis": 1}
        inputs = [codes, node.inputs[1], matrix.scale, matrix.zero_point]
        chain.add("GatherBlockQuantized", inputs, attributes, domain=CONTRIB, heir=True)
        chain.replace()

    def _portable_lookup(self, node: ir.Node, decision: Decision) -> None:
        """Look up bytes and scales, take codes of fewer bits apart, and dequantize the rows that were asked for."""
        key, indices = decision.inputs[0], node.inputs[1]
        assert indices is not None
        assert indices.shape is not None
        rank = len(indices.shape)
        chain = Chain(self._editor, node)
        if key not in self._tables:
            self._tables[key] = self._matrices.for_portable_lookup(key)
        table = self._tables[key]
        codes = chain.add("Gather", [table.codes, indices], heir=True)
        if table.bits < 8:
            codes = take_apart(chain, codes, bits=table.bits, shape=[0] * rank + [table.columns])
        scale = chain.add("Gather", [table.scale, indices])
        zero_point = None if table.zero_point is None else chain.add("Gather", [table.zero_point, indices])
        chain.add("DequantizeLinear", [codes, scale, zero_point], {"axis": rank, "block_size": table.block})
        chain.replace()

    def _codebook_lookup(self, node: ir.Node, decision: Decision) -> None:
        chain = Chain(self._editor, node)
        self._codebooks.look_up(chain, decision.inputs[0], node.inputs[1])
        chain.replace()

    def _decode(self, node: ir.Node, decision: Decision) -> None:
        """Put the tables' values in front of every weight."""
        for slot, key in decision.inputs.items():
            node.replace_input_with(slot, self._codebooks.decoded(key, node))

    def _unpack(self, node: ir.Node, decision: Decision) -> None:
        """Put DequantizeLinear in front of every weight."""
        for slot, key in decision.inputs.items():
            if key not in self._dequantized:
                dequantize = self._editor.dequantized(key)
                self._editor.insert_before(node, dequantize)
                self._dequantized[key] = dequantize.outputs[0]
            node.replace_input_with(slot, self._dequantized[key])
