"""Codebooks: weights as indices into tables of values, looked up by Gather.

    weights      indices -> [Cast] -> [Add: where each group's table begins] -> [Gather: tables] -> reader
    embeddings   rows of indices -> [Gather: rows] -> [Cast] -> [Gather: table]
    both         a product with the embedding's transpose decodes the embedding's indices and transposes the values

    vectors      indices [features / n, outputs] -> [Cast] -> [Gather: vectors of n] -> [Transpose, Reshape] -> reader

All tables lie one behind the other. Indices are stored in the smallest type that holds them; those of embeddings, whose
Gather takes no types of fewer bits, are packed into bytes. Weights come from constants alone: an optimizing runtime
decodes them once, when it loads the model.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxq.graph.node_marks import mark_unpacking
from onnxq.numerics.affine import storage_array
from onnxq.numerics.blocks import parameter_shape, spread, to_groups
from onnxq.numerics.codebook import Codebook
from onnxq.numerics.packing import pack
from onnxq.passes.emit.editor import Editor
from onnxq.passes.emit.node_builder import NodeBuilder, unpack_bits
from onnxq.types.scheme import PerBlock

_INDEX = ir.DataType.INT32  # the smaller one of those that Gather takes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _RowTable:
    """A stored matrix that rows are looked up in: packed indices, the one table of values, and columns."""

    packed: ir.Value
    table: ir.Value
    columns: int


class Codebooks:
    """Finds codebooks, stores them once, and writes the nodes that decode them."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._decoded: dict[str, ir.Value] = {}
        self._rows: dict[str, _RowTable] = {}
        self._stored: dict[bytes, _RowTable] = {}

    def decoded(self, key: str, reader: ir.Node) -> ir.Value:
        """Return the values of the weight planned as `key`, decoded in front of its first `reader`."""
        if key not in self._decoded:
            build = NodeBuilder(self._editor, key)
            if self._editor.tensor(key).scheme.vector > 1:
                self._decoded[key] = self._vectors(build, key, by_row=bool(reader.attributes.get_int("transB", 0)))
            else:
                codes, codebook = self._editor.constants.codebook(key)
                shared = self._shared(build, key, codes, codebook) if self._stored and codes.ndim == 2 else None
                self._decoded[key] = shared or self._decode(build, key, codes, codebook)
            for node in build.nodes:
                mark_unpacking(node)
            self._editor.insert_before(reader, build.nodes)
        return self._decoded[key]

    def look_up(self, build: NodeBuilder, key: str, indices: ir.Value | None) -> ir.Value:
        """Write what looks up rows of the matrix planned as `key`, all of whose values are in one table."""
        assert indices is not None
        assert indices.shape is not None
        bits = self._editor.tensor(key).scheme.dtype.bits
        if key not in self._rows:
            codes, codebook = self._editor.constants.codebook(key)
            packed, place = pack(codes, bits), _place(codes, codebook)
            if place not in self._stored:
                self._stored[place] = _RowTable(
                    packed=self._editor.constant(f"{key}/indices", packed),
                    table=self._editor.constant(f"{key}/codebook", codebook.table.reshape(-1)),
                    columns=codes.shape[-1],
                )
            self._rows[key] = self._stored[place]
        rows = self._rows[key]
        index = build("Gather", rows.packed, indices, node=build.name)
        if bits < 8:
            index = unpack_bits(build, index, bits=bits, shape=[0] * len(indices.shape) + [rows.columns])
        return build("Gather", rows.table, build("Cast", index, attributes={"to": _INDEX}))

    def _shared(
        self, build: NodeBuilder, key: str, codes: npt.NDArray[np.uint8], codebook: Codebook
    ) -> ir.Value | None:
        """Decode a matrix, or its transpose, that rows are looked up in, too: both are stored as one."""
        bits = self._editor.tensor(key).scheme.dtype.bits
        for stored, transposed in ((codes, False), (np.ascontiguousarray(codes.T), True)):
            rows = self._stored.get(_place(stored, codebook))
            if rows is not None:
                index = rows.packed if bits == 8 else unpack_bits(build, rows.packed, bits=bits, shape=stored.shape)
                index = build("Cast", index, attributes={"to": _INDEX})
                value = build("Gather", rows.table, index, to="decoded", dtype=ir.DataType.FLOAT)
                return build("Transpose", value, attributes={"perm": [1, 0]}) if transposed else value
        return None

    def _vectors(self, build: NodeBuilder, key: str, *, by_row: bool) -> ir.Value:
        """Decode a matrix whose outputs are columns, or rows, from vectors of neighbouring weights of an output."""
        product = self._editor.constants.product_codes(key, by_row=by_row)
        codes = np.ascontiguousarray(product.codes.T) if by_row else product.codes
        dtype = self._editor.tensor(key).scheme.dtype
        stored = self._editor.constant(f"{key}/indices", storage_array(codes, dtype))
        table = self._editor.constant(f"{key}/codebook", product.table)
        runs, outputs = product.codes.shape
        index = build("Cast", stored, to="index", dtype=_INDEX, attributes={"to": _INDEX})
        value = build("Gather", table, index, to="vectors", dtype=ir.DataType.FLOAT)
        shape = (outputs, runs * product.table.shape[1]) if by_row else (runs * product.table.shape[1], outputs)
        if not by_row:
            value = build("Transpose", value, to="turned", dtype=ir.DataType.FLOAT, attributes={"perm": [0, 2, 1]})
        wanted = build.constant(shape, np.int64)
        return build("Reshape", value, wanted, to="decoded", dtype=ir.DataType.FLOAT, shape=ir.Shape(shape))

    def _decode(self, build: NodeBuilder, key: str, codes: npt.NDArray[np.uint8], codebook: Codebook) -> ir.Value:
        scheme, shape = self._editor.tensor(key).scheme, codes.shape
        granularity = scheme.granularity
        groups = to_groups(codes, granularity)
        stored = self._editor.constant(f"{key}/indices", storage_array(groups, scheme.dtype))
        table = self._editor.constant(f"{key}/codebook", codebook.table.reshape(-1))
        grouped = ir.Shape(groups.shape)
        index = build("Cast", stored, to="index", dtype=_INDEX, shape=grouped, attributes={"to": _INDEX})
        count = codebook.table.size // codebook.table.shape[-1]
        if count > 1:
            begins = np.arange(count, dtype=np.int32) * np.int32(codebook.table.shape[-1])
            begins = spread(begins.reshape(parameter_shape(shape, granularity)), shape, granularity)
            begin = self._editor.constant(f"{key}/begins", np.ascontiguousarray(begins))
            index = build("Add", index, begin, to="place", dtype=_INDEX, shape=grouped)
        value = build("Gather", table, index, to="decoded", dtype=ir.DataType.FLOAT, shape=grouped)
        return _joined(build, value, shape, granularity) if isinstance(granularity, PerBlock) else value


def _place(codes: npt.NDArray[np.uint8], codebook: Codebook) -> bytes:
    """Return what equal indices of equal shape into equal tables have in common."""
    parts = (str(codes.shape).encode(), np.ascontiguousarray(codes).data, codebook.table.tobytes())
    return b"".join(hashlib.sha256(part).digest() for part in parts)


def _joined(build: NodeBuilder, groups: ir.Value, shape: tuple[int, ...], granularity: PerBlock) -> ir.Value:
    """Add the nodes that put blocks together again, and cut off what fills up the last one."""
    axis = (granularity.axis or 0) % len(shape)
    length = -(-shape[axis] // granularity.size) * granularity.size
    full = (*shape[:axis], length, *shape[axis + 1 :])
    wanted = build.constant(full, np.int64)
    value = build("Reshape", groups, wanted, to="joined", dtype=ir.DataType.FLOAT, shape=ir.Shape(full))
    if length == shape[axis]:
        return value
    bounds = (build.constant([bound], np.int64) for bound in (0, shape[axis], axis))
    return build("Slice", value, *bounds, to="cut", dtype=ir.DataType.FLOAT, shape=ir.Shape(shape))
