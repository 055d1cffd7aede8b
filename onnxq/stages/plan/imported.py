"""Tensors of nodes that were imported quantized: their own codes and parameters, not those that a plan would choose."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnxq.graph.names import name_of
from onnxq.numerics.affine import dequantize, params_from_range, quantize, weight_range
from onnxq.numerics.metrics import sqnr_db
from onnxq.numerics.pair_safe import breaks, fit_pairs
from onnxq.passes.read.qdq import Imported
from onnxq.targets.pair_sums import PRODUCTS, product_of
from onnxq.types.plan import PairLimit, Role, TensorPlan

if TYPE_CHECKING:
    from onnxq.passes.emit.constants import Chosen
    from onnxq.passes.read.constants import Constant
    from onnxq.stages.plan.entries import Candidate
    from onnxq.targets import Target

REASON = "imported with the model"
"""Reason of tensors that keep their codes or parameters."""


class ImportedTensors:
    """Plans of the tensors that a model was imported with, and which of its weights would saturate."""

    def __init__(self, imported: Imported, target: Target) -> None:
        self._imported = imported
        self._target = target
        self._refitted: dict[str, Refitted] = {}

    def activation(self, name: str) -> TensorPlan | None:
        """Return the plan of an activation, None if it was not imported."""
        params = self._imported.activations.get(name)
        if params is None:
            return None
        return TensorPlan(
            name=name, tensor=name, role=Role.ACTIVATION, scheme=params.scheme, params=params, reason=REASON
        )

    def constant(self, entry: Candidate, slot: int) -> TensorPlan | None:
        """Return the plan of a constant that a node reads, None if it was not imported.

        Codes that saturate in the kernel of one reader are chosen again for all.
        """
        name = name_of(entry.node.inputs[slot])
        constant = self._imported.constants.get(name)
        if constant is None:
            return None
        plan = TensorPlan(name=name, tensor=name, role=Role.WEIGHT, scheme=constant.params.scheme, reason=REASON)
        again = refitted(plan, constant, self._limit(entry, slot, constant))
        if again is not None:
            self._refitted[name] = again
        return self._refitted[name].tensor if name in self._refitted else plan

    def holds(self, name: str) -> bool:
        """Return whether a constant was imported."""
        return name in self._imported.constants

    def kernel_text(self, keys: Iterable[str], kernel: str) -> str:
        """Return in words what becomes of a node that reads the tensors planned under `keys`."""
        again = next((self._refitted[key] for key in keys if key in self._refitted), None)
        return runs_as(kernel, "imported", "its codes and parameters", again)

    @property
    def warnings(self) -> tuple[str, ...]:
        """About weights whose codes are chosen again."""
        return tuple(filter(None, [warning_about(self._refitted.values())]))

    def _limit(self, entry: Candidate, slot: int, constant: Constant) -> PairLimit | None:
        """Return what the codes of a weight must keep to in the kernel that its node becomes, None for nothing."""
        if entry.op not in PRODUCTS or slot not in entry.weights or not entry.activations:
            return None
        if entry.op == "Conv" and not entry.quantized_output:  # between DequantizeLinear and float: no integer kernel
            return None
        running, weights = entry.request.activations.dtype, constant.params.scheme.dtype
        product = product_of(entry.node, slot, fmt=entry.request.format, activations=running, weights=weights)
        return self._target.pair_limit(product, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Refitted:
    """An imported weight whose codes are chosen again: its plan, and the SQNR of the new codes against its own, dB."""

    tensor: TensorPlan
    loss: float


def refitted(tensor: TensorPlan, constant: Constant, limit: PairLimit | None) -> Refitted | None:
    """Return how the codes of an imported weight are chosen again, None where its own keep to the limit.

    Args:
        tensor: the plan with its own codes. constant: the weight as it was imported.
        limit: of its kernel, None for none.
    """
    if limit is None or not breaks(constant.codes(), limit.axes, limit.limit):
        return None
    codes, params = pair_safe(constant, limit)
    loss = sqnr_db(constant.values(), dequantize(codes, params))
    text = f"{tensor.reason}; codes chosen again, {loss:.1f} dB from those, so that no sum of pairs saturates"
    return Refitted(tensor=replace(tensor, scheme=params.scheme, pairs=limit, reason=text), loss=loss)


def pair_safe(constant: Constant, limit: PairLimit) -> Chosen:
    """Return codes and parameters for what the codes of an imported weight represent, of which no pair saturates.

    int8 with zero points becomes int8 without: zero points are part of what saturates.
    """
    codes, params, values = constant.codes(), constant.params, constant.values()
    if not params.scheme.symmetric:
        scheme = replace(params.scheme, symmetric=True, narrow=True)
        params = params_from_range(*weight_range(values, scheme), scheme)
        codes = quantize(values, params)
    return fit_pairs(values, codes, params, limit.axes, limit.limit)


def warning_about(weights: Iterable[Refitted]) -> str:
    """Return a sentence about weights whose codes are chosen again; empty if none."""
    losses = {weight.tensor.tensor: weight.loss for weight in weights}
    if not losses:
        return ""
    shown = ", ".join(f"'{name}' {losses[name]:.1f} dB" for name in sorted(losses, key=losses.__getitem__)[:3])
    return (
        f"the codes of {len(losses)} imported weights would saturate, since this target's kernels add pairs of "
        f"products in 16 bits: they are chosen again; from what they were: {shown}{', ...' if len(losses) > 3 else ''}"
    )


def runs_as(kernel: str, origin: str, parts: str, again: Refitted | None) -> str:
    """Return in words what an imported node runs as, and with what.

    Args:
        kernel: operator type.
        origin: how the node was imported.
        parts: what of it is kept.
        again: its weight, where its codes are chosen again.
    """
    if again is None:
        return f"{origin}; {parts} run as {kernel}"
    return f"{origin}; its weight, with codes chosen again ({again.loss:.1f} dB from its own), runs as {kernel}"
