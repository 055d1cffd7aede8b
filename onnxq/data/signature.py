"""Signature: the inputs that a model takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxq.errors import CalibrationError

if TYPE_CHECKING:
    import onnx_ir as ir

Dim = int | str | None
"""An extent: fixed, named, or free."""

# Names of free leading axes that are not a batch, in the spelling of exporters and people.
_NOT_A_BATCH = ("height", "width", "seq", "time", "length", "frame", "channel", "token", "step")


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSpec:
    """One input of a model.

    Attributes:
        name: the graph input's name.
        dtype: the numpy dtype it takes; `object` for strings.
        dims: an extent for each axis; None if the model leaves even the rank open.
        below: for integers that index a table of the model (token ids), the table's length; None if unknown.
    """

    name: str
    dtype: np.dtype[Any]
    dims: tuple[Dim, ...] | None
    below: int | None = None

    def __str__(self) -> str:
        """Short form for messages: `float32[batch, 3, 224, 224]`."""
        name = "string" if self.dtype == object else str(self.dtype)
        if self.dims is None:
            return name
        return f"{name}[{', '.join('?' if dim is None else str(dim) for dim in self.dims)}]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """The inputs of a model, in graph order; initializers that are listed as inputs are left out."""

    inputs: tuple[InputSpec, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the inputs' names."""
        return tuple(spec.name for spec in self.inputs)

    @property
    def has_batch_axis(self) -> bool:
        """Return whether axis 0 of the inputs can be taken for a batch of independent samples.

        It can where every input with axes begins with the same free extent, or with 1, and its name is not that of
        something else (height, sequence...).
        """
        leading = {spec.dims[0] for spec in self.inputs if spec.dims}
        if any(spec.dims is None for spec in self.inputs) or not leading:
            return False
        if (len(leading) > 1 and any(isinstance(dim, int) for dim in leading)) or len(leading - {None}) > 1:
            return False
        if any(isinstance(dim, int) for dim in leading):
            return True
        names = [str(dim).lower() for dim in leading]
        return not any(part in name and "batch" not in name for name in names for part in _NOT_A_BATCH)

    @property
    def is_fixed(self) -> bool:
        """Return whether all samples are of one size: every extent except that of the batch axis is fixed."""
        first = 1 if self.has_batch_axis else 0
        return all(
            spec.dims is not None and all(isinstance(dim, int) for dim in spec.dims[first:]) for spec in self.inputs
        )

    @property
    def fixed_batch(self) -> int | None:
        """Return the extent of the batch axis if the model fixes it, else None."""
        if not self.has_batch_axis:
            return None
        first = next(spec.dims[0] for spec in self.inputs if spec.dims)
        return first if isinstance(first, int) else None


def signature(model: ir.Model) -> Signature:
    """Return the inputs that `model` takes.

    Raises:
        CalibrationError: an input is not a tensor, or its type is not declared.
    """
    inputs = (value for value in model.graph.inputs if value.name not in model.graph.initializers)
    return Signature(inputs=tuple(_spec(value) for value in inputs))


def _spec(value: ir.Value) -> InputSpec:
    import onnx_ir as ir

    if not isinstance(value.type, ir.TensorType) or value.dtype is None:
        kind = type(value.type).__name__ if value.type is not None else "nothing"
        raise CalibrationError(f"input '{value.name}' is declared as {kind}; onnxq feeds tensors only")
    dims = None
    if value.shape is not None:
        # Exporters of PaddlePaddle name every extent that varies "?"; those need not be equal.
        dims = tuple(dim if isinstance(dim, int) else None if dim.value == "?" else dim.value for dim in value.shape)
    return InputSpec(name=value.name or "", dtype=np.dtype(value.dtype.numpy()), dims=dims, below=_table_length(value))


def _table_length(value: ir.Value) -> int | None:
    """Return the length of the shortest constant table that `value` indexes by Gather, directly or through a Cast."""
    lengths: list[int] = []
    for use in value.uses():
        node = use.node
        if node.op_type == "Cast":
            below = _table_length(node.outputs[0])
            lengths += [below] if below is not None else []
        elif node.op_type == "Gather" and use.idx == 1 and node.inputs[0] is not None:
            table, axis = node.inputs[0].const_value, node.attributes.get_int("axis", 0)
            lengths += [int(table.shape.numpy()[axis])] if table is not None else []
    return min(lengths, default=None)
