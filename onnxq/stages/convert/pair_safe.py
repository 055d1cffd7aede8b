"""Imported weights whose codes would saturate in the kernel that they go to: the codes are chosen again, pair-safe."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxq.numerics.affine import dequantize, params_from_range, quantize, weight_range
from onnxq.numerics.metrics import sqnr_db
from onnxq.numerics.pair_safe import breaks, fit_pairs
from onnxq.types.plan import PairLimit, TensorPlan

if TYPE_CHECKING:
    from onnxq.passes.emit.constants import Chosen
    from onnxq.stages.convert.held import Constant


def with_limit(tensor: TensorPlan, held: Constant, limit: PairLimit | None) -> TensorPlan:
    """Return the plan of an imported weight: its own codes, or ones that keep to `limit` where its own do not.

    Args:
        tensor: the plan with its own codes. held: the weight as it was imported. limit: of its kernel, None for none.
    """
    if limit is None or not breaks(held.codes(), limit.axes, limit.limit):
        return tensor
    codes, params = pair_safe(held, limit)
    loss = sqnr_db(held.values(), dequantize(codes, params))
    text = f"{tensor.reason}; codes chosen again, {loss:.1f} dB from those, so that no sum of pairs saturates"
    return replace(tensor, scheme=params.scheme, pairs=limit, reason=text)


def pair_safe(held: Constant, limit: PairLimit) -> Chosen:
    """Return codes and parameters for what the codes of an imported weight represent, of which no pair saturates.

    int8 with zero points becomes int8 without: zero points are part of what saturates.
    """
    codes, params, values = held.codes(), held.params, held.values()
    if not params.scheme.symmetric:
        scheme = replace(params.scheme, symmetric=True, narrow=True)
        params = params_from_range(*weight_range(values, scheme), scheme)
        codes = quantize(values, params)
    return fit_pairs(values, codes, params, limit.axes, limit.limit)


def refitted(tensors: Iterable[TensorPlan]) -> str:
    """Return a sentence about the weights of a plan whose codes were chosen again, "" if there are none."""
    found = sorted({f"'{tensor.tensor}'" for tensor in tensors if tensor.pairs is not None})
    if not found:
        return ""
    shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    return (
        f"the codes of {len(found)} imported weights would saturate, since this target's kernels add pairs of products "
        f"in 16 bits: they are chosen again ({shown}; the plan says with which loss)"
    )
