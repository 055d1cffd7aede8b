"""Codebooks: weights as indices into tables of values, looked up by Gather.

    weights      indices -> [Cast] -> [Add: where each group's table begins] -> [Gather: tables] -> reader
    embeddings   rows of indices -> [Gather: rows] -> [Cast] -> [Gather: table]

All tables lie one behind the other. Indices are stored in the smallest type that holds them; those of embeddings, whose
Gather takes no types of fewer bits, are packed into bytes. Weights come from constants alone: an optimizing runtime
decodes them once, when it loads the model.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxq.numerics.affine import storage_array
from onnxq.numerics.blocks import parameter_shape, spread, to_groups
from onnxq.numerics.packing import pack
from onnxq.passes.emit.chain import Chain, take_apart
from onnxq.passes.emit.editor import Editor
from onnxq.passes.emit.steps import Steps
from onnxq.types.scheme import PerBlock

_INDEX = ir.DataType.INT32  # the smaller one of those that Gather takes


class Codebooks:
    """Finds codebooks, stores them once, and writes the nodes that decode them."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._decoded: dict[str, ir.Value] = {}
        self._constants: dict[object, ir.Value] = {}
        self._tables: dict[str, tuple[ir.Value, ir.Value, int]] = {}

    def decoded(self, key: str, reader: ir.Node) -> ir.Value:
        """Return the values of the weight planned as `key`, decoded in front of its first `reader`."""
        if key not in self._decoded:
            self._decoded[key] = self._decode(key, reader)
        return self._decoded[key]

    def look_up(self, chain: Chain, key: str, rows: ir.Value | None) -> None:
        """Add the nodes that look up rows of the matrix planned as `key`, all of whose values are in one table."""
        assert rows is not None
        assert rows.shape is not None
        bits = self._editor.tensor(key).scheme.dtype.bits
        if key not in self._tables:
            codes, codebook = self._editor.constants.codebook(key)
            packed = self._editor.initializer(f"{key}/indices", pack(codes, bits), of=key)
            table = self._editor.initializer(f"{key}/codebook", codebook.table.reshape(-1), of=key)
            self._tables[key] = packed, table, codes.shape[-1]
        packed, table, columns = self._tables[key]
        index = chain.add("Gather", [packed, rows], heir=True)
        if bits < 8:
            index = take_apart(chain, index, bits=bits, shape=[0] * len(rows.shape) + [columns])
        chain.add("Gather", [table, chain.add("Cast", [index], {"to": _INDEX})])

    def _decode(self, key: str, reader: ir.Node) -> ir.Value:
        codes, codebook = self._editor.constants.codebook(key)
        scheme, shape = self._editor.tensor(key).scheme, codes.shape
        granularity = scheme.granularity
        groups = to_groups(codes, granularity)
        steps = Steps(self._editor, key, self._constants)
        stored = self._editor.initializer(f"{key}/indices", storage_array(groups, scheme.dtype), of=key)
        table = self._editor.initializer(f"{key}/codebook", codebook.table.reshape(-1), of=key)
        grouped = ir.Shape(groups.shape)
        index = steps("Cast", stored, to="index", dtype=_INDEX, shape=grouped, attributes={"to": _INDEX})
        count = codebook.table.size // codebook.table.shape[-1]
        if count > 1:
            begins = np.arange(count, dtype=np.int32) * np.int32(codebook.table.shape[-1])
            begins = spread(begins.reshape(parameter_shape(shape, granularity)), shape, granularity)
            begin = self._editor.initializer(f"{key}/begins", np.ascontiguousarray(begins), of=key)
            index = steps("Add", index, begin, to="place", dtype=_INDEX, shape=grouped)
        value = steps("Gather", table, index, to="decoded", dtype=ir.DataType.FLOAT, shape=grouped)
        if isinstance(granularity, PerBlock):
            value = _joined(steps, value, shape, granularity)
        for node in steps.nodes:
            self._editor.insert_before(reader, node)
        return value


def _joined(steps: Steps, groups: ir.Value, shape: tuple[int, ...], granularity: PerBlock) -> ir.Value:
    """Add the nodes that put blocks together again, and cut off what fills up the last one."""
    axis = (granularity.axis or 0) % len(shape)
    length = -(-shape[axis] // granularity.size) * granularity.size
    full = (*shape[:axis], length, *shape[axis + 1 :])
    wanted = steps.constant(full, np.int64)
    value = steps("Reshape", groups, wanted, to="joined", dtype=ir.DataType.FLOAT, shape=ir.Shape(full))
    if length == shape[axis]:
        return value
    bounds = (steps.constant([bound], np.int64) for bound in (0, shape[axis], axis))
    return steps("Slice", value, *bounds, to="cut", dtype=ir.DataType.FLOAT, shape=ir.Shape(shape))
