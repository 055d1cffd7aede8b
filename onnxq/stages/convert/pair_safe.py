"""Imported weights whose codes would saturate in the kernel that they go to: the codes are chosen again, pair-safe."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnxq.numerics.affine import dequantize, params_from_range, quantize, weight_range
from onnxq.numerics.metrics import sqnr_db
from onnxq.numerics.pair_safe import breaks, fit_pairs
from onnxq.types.plan import PairLimit, TensorPlan

if TYPE_CHECKING:
    from onnxq.passes.emit.constants import Chosen
    from onnxq.passes.read.constants import Constant


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenAgain:
    """An imported weight whose codes are chosen again: its plan, and the SQNR of the new codes against its own, dB."""

    tensor: TensorPlan
    loss: float


def chosen_again(tensor: TensorPlan, held: Constant, limit: PairLimit | None) -> ChosenAgain | None:
    """Return how the codes of an imported weight are chosen again, None where its own keep to the limit.

    Args:
        tensor: the plan with its own codes. held: the weight as it was imported. limit: of its kernel, None for none.
    """
    if limit is None or not breaks(held.codes(), limit.axes, limit.limit):
        return None
    codes, params = pair_safe(held, limit)
    loss = sqnr_db(held.values(), dequantize(codes, params))
    text = f"{tensor.reason}; codes chosen again, {loss:.1f} dB from those, so that no sum of pairs saturates"
    return ChosenAgain(tensor=replace(tensor, scheme=params.scheme, pairs=limit, reason=text), loss=loss)


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


def warning_about(weights: Iterable[ChosenAgain]) -> str:
    """Return a sentence about weights whose codes are chosen again, "" if there are none."""
    losses = {weight.tensor.tensor: weight.loss for weight in weights}
    if not losses:
        return ""
    shown = ", ".join(f"'{name}' {losses[name]:.1f} dB" for name in sorted(losses, key=losses.__getitem__)[:3])
    return (
        f"the codes of {len(losses)} imported weights would saturate, since this target's kernels add pairs of "
        f"products in 16 bits: they are chosen again; from what they were: {shown}{', ...' if len(losses) > 3 else ''}"
    )
