"""Tables whose numbers a product multiplies, too: as they are, transposed, or in a copy of their own.

Exporters write an embedding and the product with its transpose as one constant or as two. Where their codes are the
same they are stored once, so a table takes what the product's kernel wants of its weight: pairs that do not saturate,
or uint8 for int8 with zero points.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeGuard

from onnxq.graph.constants import constant_tensor, untransposed
from onnxq.stages.plan.entries import Candidate, FloatNode
from onnxq.stages.plan.kernel_choice import is_shifted_by_128
from onnxq.types.format import Format
from onnxq.types.plan import PairLimit

if TYPE_CHECKING:
    import onnx_ir as ir


class Products:
    """The products whose activations are quantized at run time and whose kernels want something of their weights."""

    def __init__(self, examined: Iterable[Candidate | FloatNode]) -> None:
        self._particular = [entry for entry in examined if _is_particular(entry)]

    def with_table(self, entry: Candidate, slot: int) -> tuple[Candidate, tuple[int, ...]] | None:
        """Return the product that multiplies the table in a slot of a lookup, and for each axis that of its weight.

        None where no product does, and for nodes that do not look up.
        """
        table = entry.node.inputs[slot]
        if table is None or not _looks_up(entry):
            return None
        for product in self._particular:
            weight = product.node.inputs[product.weights[0]]
            axes = None if weight is None else same_axes(table, weight)
            if axes is not None:
                return product, axes
        return None


def with_codes_of_products(examined: Iterable[Candidate | FloatNode]) -> list[Candidate | FloatNode]:
    """Return the nodes with uint8 tables where uint8 stands in for int8 in the product that multiplies them, too."""
    entries = list(examined)
    products = Products(entries)

    def matched(entry: Candidate | FloatNode) -> Candidate | FloatNode:
        if not _looks_up(entry) or not is_shifted_by_128(entry.request.weights):
            return entry
        tied = products.with_table(entry, entry.weights[0])
        if tied is None or not tied[0].request.unsigned:
            return entry
        weights = replace(entry.request.weights, dtype=tied[0].request.weights.dtype)
        return replace(entry, request=replace(entry.request, weights=weights, unsigned=True))

    return [matched(entry) for entry in entries]


def of_table(limit: PairLimit, axes: Sequence[int]) -> PairLimit:
    """Return the limit of a weight as that of a table whose axis k is axis axes[k] of the weight."""
    return replace(limit, axes=tuple(axes.index(axis) for axis in limit.axes))


def same_axes(value: ir.Value, other: ir.Value) -> tuple[int, ...] | None:
    """Return for each axis of a constant which axis of another it is where both hold the same numbers, else None."""
    (root, order), (other_root, other_order) = untransposed(value), untransposed(other)
    orders = ((1, 0), (0, 1)) if root is not other_root else (tuple(range(len(order))),)
    axes = next((each for each in orders if root is other_root or hold_same(root, other_root, each)), None)
    if axes is None or len(order) != len(other_order):
        return None
    return tuple(other_order.index(axes[axis]) for axis in order)


def hold_same(value: ir.Value, other: ir.Value, order: tuple[int, ...]) -> bool:
    """Return whether two matrices hold the same numbers, axis k of one being axis order[k] of the other."""
    one, two = constant_tensor(value), constant_tensor(other)
    if one is None or two is None or len(one.shape) != len(order) or len(two.shape) != len(order):
        return False
    if tuple(one.shape) != tuple(two.shape[axis] for axis in order):
        return False
    return bool((one.numpy() == two.numpy().transpose(order)).all())


def _looks_up(entry: Candidate | FloatNode) -> TypeGuard[Candidate]:
    return _at_run_time(entry) and entry.fact.rearranges


def _is_particular(entry: Candidate | FloatNode) -> TypeGuard[Candidate]:
    return _at_run_time(entry) and not entry.fact.rearranges and (entry.row.pairs or entry.request.unsigned)


def _at_run_time(entry: Candidate | FloatNode) -> TypeGuard[Candidate]:
    return isinstance(entry, Candidate) and entry.request.format is Format.DYNAMIC and bool(entry.weights)
