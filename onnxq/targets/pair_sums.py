"""Which kernels add pairs of neighbouring products in 16 bits, where they saturate, and along which axes of the weight.

Without VNNI an x86-64 processor multiplies u8 by s8 and adds pairs of products in 16 bits that saturate (PMADDUBSW,
Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2). Which pairs these are was measured by
running every kernel with all activations except two at zero: 2k and 2k + 1 along the summed axes; a convolution runs
along kernel height, kernel width, channels of the group, and pairs reach across the ends of these.

Planner, converter, doctor and verify all call `Target.pair_limit`; `targets --probe` proves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxq.types.format import Format
from onnxq.types.plan import PairLimit
from onnxq.types.scheme import QuantType

if TYPE_CHECKING:
    import onnx_ir as ir

PRODUCTS = ("MatMul", "Gemm", "Conv", "LSTM")
"""The operators whose kernels add pairs."""

LARGEST = 255
"""Largest activation code of the kernels that add pairs; int8 activations in QDQ are made uint8 by the runtime."""


UNKNOWN = -1
"""An extent that depends on the inputs, in products of two activations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IntegerProduct:
    """An integer product, whichever operators it is written in.

    Attributes:
        op: the float operator, one of `PRODUCTS`.
        fmt: how it is written.
        activations: type of the activation's codes.
        weights: type of the weight's codes.
        shape: of the weight, as the float operator has it; see `UNKNOWN`.
        groups: of a convolution.
        transposed: whether the weight of a MatMul or Gemm is summed over along its last axis.
    """

    op: str
    fmt: Format
    activations: QuantType
    weights: QuantType
    shape: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False

    @property
    def depthwise(self) -> bool:
        """Return whether it is a convolution with one channel in and one out for each group."""
        return self.op == "Conv" and self.shape[1:2] == (1,) and self.shape[0] == self.groups

    @property
    def summed_axes(self) -> tuple[int, ...]:
        """Return the axes of the weight that are summed over, in the order in which kernels run along them."""
        rank = len(self.shape)
        if self.op == "Conv":
            return (*range(2, rank), 1)
        if self.op == "LSTM":
            return (2,)
        return (rank - 1 if self.transposed else max(rank - 2, 0),)

    @property
    def largest(self) -> int:
        """Return the largest magnitude that an activation's code can have in the kernel."""
        unchanged = self.activations is QuantType.INT8 and self.fmt is not Format.QDQ
        return 128 if unchanged else LARGEST


def product_of(node: ir.Node, slot: int, *, fmt: Format, activations: QuantType, weights: QuantType) -> IntegerProduct:
    """Return the integer product that a float node becomes, for its weight in `slot`."""
    value = node.inputs[slot]
    shape = None if value is None else value.shape
    return IntegerProduct(
        op=node.op_type,
        fmt=fmt,
        activations=activations,
        weights=weights,
        shape=() if shape is None else tuple(extent if isinstance(extent, int) else UNKNOWN for extent in shape),
        groups=node.attributes.get_int("group", 1),
        transposed=bool(node.attributes.get_int("transB", 0)),
    )


def exact(product: IntegerProduct, largest: int | None = None) -> PairLimit | None:
    """Return None, for no limit: the `pair_limit` of processors whose sums are exact."""
    return None


def without_vnni(product: IntegerProduct) -> bool:
    """Return whether the kernel for a product adds pairs on x86-64 with AVX2 or AVX-512 and without VNNI.

    Kernels that do not: depthwise convolutions, and all those with uint8 weights, except ConvInteger, which multiplies
    weights by activations: of it only uint8 weights x int8 activations are added in pairs. In format qdq int8
    activations become uint8 when the model is loaded; in the other formats they do not, and are exact.
    """
    integer_convolution = product.op == "Conv" and product.fmt is Format.DYNAMIC
    if product.weights is QuantType.UINT8:
        return integer_convolution and product.activations is QuantType.INT8
    if product.weights is not QuantType.INT8 or product.depthwise or integer_convolution:
        return False
    return product.activations is QuantType.UINT8 or product.fmt is Format.QDQ


def limit_without_vnni(product: IntegerProduct, largest: int | None = None) -> PairLimit | None:
    """Return the limit of a weight's codes at which no sum saturates without VNNI, None for no limit.

    Args:
        product: the product.
        largest: the largest activation code that can occur; None for the type's.
    """
    from onnxq.numerics.pair_safe import pair_limit

    limit = pair_limit(product.largest if largest is None else largest)
    if not without_vnni(product) or limit >= 2 * max(product.weights.maximum, -product.weights.minimum):
        return None
    return PairLimit(axes=product.summed_axes, limit=limit)
