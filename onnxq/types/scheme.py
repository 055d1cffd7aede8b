"""Scheme: what is wanted of a tensor. Range and QuantParams: what was chosen for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from onnxq.errors import RecipeError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class QuantType(StrEnum):
    """A type to quantize to, by its ONNX name in lower case.

    INT3 is not an ONNX type: its codes -4..3 are stored as int4. The floating-point types have no zero point; FLOAT16
    and BFLOAT16 have no scale either (it is 1).
    """

    INT2 = "int2"
    UINT2 = "uint2"
    INT3 = "int3"
    INT4 = "int4"
    UINT4 = "uint4"
    INT8 = "int8"
    UINT8 = "uint8"
    INT16 = "int16"
    UINT16 = "uint16"
    INT32 = "int32"
    FLOAT4E2M1 = "float4e2m1"
    FLOAT8E4M3FN = "float8e4m3fn"
    FLOAT8E5M2 = "float8e5m2"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"

    @property
    def is_float(self) -> bool:
        """Whether the codes are floating-point numbers."""
        return "float" in self.value

    @property
    def signed(self) -> bool:
        """Whether negative codes exist."""
        return not self.value.startswith("uint")

    @property
    def bits(self) -> int:
        """Width in bits of a code (INT3: 3, though its storage takes 4)."""
        return int(re.search(r"\d+", self.value)[0])  # type: ignore[index]

    @property
    def stored_bits(self) -> int:
        """Bits that a code takes in a model."""
        return 4 if self is QuantType.INT3 else self.bits

    @property
    def minimum(self) -> int:
        """Smallest finite code."""
        if self.is_float:
            return -self.maximum
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def maximum(self) -> int:
        """Largest finite code."""
        if self.is_float:
            return _LARGEST_FLOAT[self.value]
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1


# Largest finite values: all happen to be integers.
_LARGEST_FLOAT = {
    "float4e2m1": 6,
    "float8e4m3fn": 448,
    "float8e5m2": 57344,
    "float16": 65504,
    "bfloat16": ((1 << 8) - 1) << 120,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PerTensor:
    """One scale for the whole tensor."""

    kind: Literal["per-tensor"] = "per-tensor"


@dataclass(frozen=True, kw_only=True, slots=True)
class PerChannel:
    """One scale for each index of `axis`; None means the operator's own output-channel axis."""

    kind: Literal["per-channel"] = "per-channel"
    axis: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PerBlock:
    """One scale for each run of `size` elements along `axis` (None: the reduction axis); the last run may be short."""

    size: int
    kind: Literal["per-block"] = "per-block"
    axis: int | None = None

    def __post_init__(self) -> None:
        """Check the size."""
        if self.size < 1:
            raise RecipeError(f"a block holds at least one element, not {self.size}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PerToken:
    """One scale for each row (all axes but the last), found at run time."""

    kind: Literal["per-token"] = "per-token"


Granularity = PerTensor | PerChannel | PerBlock | PerToken


class Rounding(StrEnum):
    """How a quotient becomes a code. The ONNX operators round half to even."""

    NEAREST_EVEN = "nearest-even"
    NEAREST_AWAY = "nearest-away"
    FLOOR = "floor"
    CEIL = "ceil"
    STOCHASTIC = "stochastic"


class ScaleType(StrEnum):
    """Which numbers a scale may be: those of the type it is stored in, or powers of two (scaling is then a shift)."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    POWER_OF_TWO = "power-of-two"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """What is wanted of a tensor.

    Attributes:
        dtype: type of the codes.
        symmetric: zero point fixed at 0 (signed) or at the middle code (unsigned).
        granularity: which elements share a scale.
        rounding: how quotients become codes.
        narrow: symmetric signed codes use -(2^(b-1) - 1) .. 2^(b-1) - 1, so that -x is a code whenever x is
            (the "restricted range"); without it the smallest code is used too.
        scale_type: which numbers the scales may be; tensors of float16 models have float16 scales.
        codebook: bits of an index into a table of 2^bits values, one table where there would be one scale; codes are
            such indices then, and there are no scales. None: codes are evenly spaced.
        vector: weights that share an index into a codebook, neighbours along the axis that is summed over; the table
            then holds vectors of so many values (product quantization).
        outliers: of an activation that a weight multiplies: features in which calibration saw a magnitude of this and
            more are left out, and multiplied in float. None: all features are quantized.

    Raises:
        RecipeError: int32 or a floating-point type that is not symmetric: DequantizeLinear gives those no zero point;
            a codebook whose indices the type does not hold, or that is called symmetric; vectors without a codebook.
    """

    dtype: QuantType
    symmetric: bool
    granularity: Annotated[Granularity, Field(discriminator="kind")] = PerTensor()
    rounding: Rounding = Rounding.NEAREST_EVEN
    narrow: bool = True
    scale_type: ScaleType = ScaleType.FLOAT32
    codebook: int | None = None
    vector: int = 1
    outliers: float | None = None

    def __post_init__(self) -> None:
        """Refuse a zero point where the type has none, and indices that do not fit it."""
        if self.codebook is not None:
            _check_codebook(self.codebook, self)
        if self.vector != 1 and (self.codebook is None or self.vector < 1):
            raise RecipeError("`vector` counts weights that share an index: 2 or more, with `codebook(8)` beside it")
        if not self.symmetric and (self.dtype.is_float or self.dtype is QuantType.INT32):
            raise RecipeError(f"{self.dtype} has no zero point; set `symmetric: true`")

    @property
    def middle(self) -> int:
        """Zero point of a symmetric scheme: 0, or for unsigned types the middle code."""
        return 0 if self.dtype.signed else (self.dtype.maximum + 1) // 2

    @property
    def code_range(self) -> tuple[int, int]:
        """Lowest and highest code in use."""
        if self.symmetric and self.narrow and self.dtype.signed and not self.dtype.is_float:
            return -self.dtype.maximum, self.dtype.maximum
        return self.dtype.minimum, self.dtype.maximum

    def __str__(self) -> str:
        """Short form for tables: `uint8 asymmetric per-tensor`."""
        where: str = self.granularity.kind
        if isinstance(self.granularity, PerBlock):
            where += f"({self.granularity.size})"
        if self.codebook is not None:
            vectors = f" of {self.vector} weights" if self.vector > 1 else ""
            return f"codebook({self.codebook}){vectors} {self.dtype} {where}"
        apart = "" if self.outliers is None else f", features from {self.outliers:g} on in float"
        return f"{self.dtype} {'symmetric' if self.symmetric else 'asymmetric'} {where}{apart}"


def index_type(bits: int) -> QuantType:
    """Return the smallest type that holds indices into a codebook of 2^bits values.

    Raises:
        RecipeError: bits out of range.
    """
    if not 2 <= bits <= 8:
        raise RecipeError(f"a codebook takes 2 to 8 bits, not {bits}")
    return QuantType.UINT2 if bits == 2 else QuantType.UINT4 if bits <= 4 else QuantType.UINT8


def _check_codebook(bits: int, scheme: Scheme) -> None:
    smallest = index_type(bits)
    if scheme.dtype not in (QuantType.UINT2, QuantType.UINT4, QuantType.UINT8) or scheme.dtype.bits < bits:
        raise RecipeError(f"{scheme.dtype} holds no indices of {bits} bits; leave the dtype out, or take {smallest}")
    if scheme.symmetric:
        raise RecipeError("a codebook has no zero point; leave `symmetric` out")


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Lowest and highest real value to represent; finite, low <= high."""

    low: float
    high: float

    def __post_init__(self) -> None:
        """Check order and finiteness."""
        if not -float("inf") < self.low <= self.high < float("inf"):
            raise ValueError(f"not a finite range: [{self.low}, {self.high}]")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QuantParams:
    """Scale and zero point for one scheme: real = (code - zero_point) * scale.

    Attributes:
        scheme: what the parameters are for.
        scale: float32, one of the numbers that `scheme.scale_type` allows, > 0 (a weight method that was asked to may
            make it negative); shape () per tensor, (channels,) per channel, the tensor's shape with the block axis
            divided by the block size (rounded up) per block, shape[:-1] + (1,) per token.
        zero_point: int32 codes, same shape as `scale`.
    """

    scheme: Scheme
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int32]

    def __eq__(self, other: object) -> bool:
        """Equal scheme and bit-equal arrays."""
        return (
            isinstance(other, QuantParams)
            and self.scheme == other.scheme
            and self.scale.shape == other.scale.shape
            and self.scale.tobytes() == other.scale.tobytes()
            and self.zero_point.tobytes() == other.zero_point.tobytes()
        )

    __hash__ = None  # type: ignore[assignment]
