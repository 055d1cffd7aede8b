"""Weights of integer operators: codes stored once, transposed or not, for all readers; scales apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxq.numerics.affine import storage_array
from onnxq.passes.emit.editor import Editor
from onnxq.passes.emit.node_builder import NodeBuilder
from onnxq.types.scheme import PerChannel, QuantParams


class IntegerWeights:
    """Codes and parameters of a plan's weights, quantized one at a time.

    A matrix that is read as it is and transposed, or is the transpose of another (an embedding and the product with its
    transposed copy), is stored once: the reader that wants it the other way gets a Transpose of the codes, which
    onnxruntime folds when it loads the model.
    """

    def __init__(self, editor: Editor, as_it_is: set[str]) -> None:
        """Begin.

        Args:
            editor: of the graph.
            as_it_is: plan keys of weights that some node reads untransposed.
        """
        self._editor = editor
        self._as_it_is = as_it_is
        self._params: dict[str, QuantParams] = {}
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self._values: dict[tuple[str, tuple[int, ...]], ir.Value] = {}
        self._transposed: dict[tuple[str, tuple[int, ...]], ir.Value] = {}

    def codes(self, key: str, build: NodeBuilder, perm: Sequence[int] | None = None) -> ir.Value:
        """Return the codes of a weight, as they are or with their axes in the order `perm`."""
        order = () if perm is None else tuple(perm)
        if (key, order) not in self._values:
            if order and key in self._as_it_is:
                self._values[key, order] = self._transpose(self.codes(key, build), order, build)
            else:
                self._values[key, order] = self._store(key, order, build)
        return self._values[key, order]

    def params(self, key: str) -> QuantParams:
        """Return scale and zero point of a weight."""
        self._array(key)
        return self._params[key]

    def scale(self, key: str, shape: Sequence[int] | None = None, factor: float = 1.0) -> ir.Value:
        """Return the stored scale of a weight, in another shape where one is given, times `factor`."""
        scale = self.params(key).scale * np.float32(factor)
        return self._editor.store(f"{key}/scale", scale if shape is None else np.broadcast_to(scale, shape), of=key)

    def zero_point(self, key: str, shape: Sequence[int] | None = None) -> ir.Value:
        """Return the stored zero point of a weight, in another shape where one is given."""
        params = self.params(key)
        values = storage_array(params.zero_point, params.scheme.dtype)
        values = values if shape is None else np.broadcast_to(values, shape)
        return self._editor.store(f"{key}/zero_point", values, of=key)

    def sums(self, key: str, axis: int) -> ir.Value:
        """Return the stored int32 sums of a weight's codes, zero points taken off, along its axis -1 or -2.

        The sums of a matrix have shape (columns of the product,), those of a stack (..., 1, columns).
        """
        params = self.params(key)
        zero_point = params.zero_point
        if isinstance(params.scheme.granularity, PerChannel):
            shape = [1] * self._array(key).ndim
            shape[params.scheme.granularity.axis or 0] = -1
            zero_point = zero_point.reshape(shape)
        sums = (self._array(key).astype(np.int32) - zero_point).sum(axis=axis, keepdims=True, dtype=np.int32)
        sums = sums.reshape(-1) if sums.ndim == 2 else np.swapaxes(sums, axis, -2)
        return self._editor.store(f"{key}/sums", sums, of=key)

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape of a weight."""
        return self._array(key).shape

    def _array(self, key: str) -> npt.NDArray[Any]:
        if key not in self._arrays:
            codes, params = self._editor.constants.codes(key)
            self._params[key] = params
            self._arrays[key] = storage_array(codes, params.scheme.dtype)
        return self._arrays[key]

    def _store(self, key: str, order: tuple[int, ...], build: NodeBuilder) -> ir.Value:
        array = self._array(key)
        if order:
            array = np.ascontiguousarray(array.transpose(order))
        if array.ndim == 2:
            mirror = self._editor.stored(array.T, of=key)
            if mirror is not None:
                return self._transpose(mirror, (1, 0), build)
        value = self._editor.store(f"{key}/quantized", array, of=key)
        # What is stored may lie in a file: codes of a model that is bigger than memory are not kept beside it.
        assert value.const_value is not None
        self._arrays[key] = value.const_value.numpy().transpose(np.argsort(order or range(array.ndim)))
        return value

    def _transpose(self, codes: ir.Value, order: tuple[int, ...], build: NodeBuilder) -> ir.Value:
        if (codes.name or "", order) not in self._transposed:
            assert codes.dtype is not None
            assert codes.shape is not None
            shape = ir.Shape([codes.shape[axis] for axis in order])
            transposed = build(
                "Transpose", codes, to="weight", dtype=codes.dtype, shape=shape, attributes={"perm": list(order)}
            )
            self._transposed[codes.name or "", order] = transposed
        return self._transposed[codes.name or "", order]
