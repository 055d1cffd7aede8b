"""Verify-each: after every pass the model is valid, and computes what it computed before where the pass claims so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

Outputs = Mapping[str, "npt.NDArray[Any]"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verifier:
    """Runs a model on sample inputs and compares its outputs.

    Attributes:
        run: runs a model on inputs by name and returns its outputs by name (`onnxq.runtime.session.run_model`).
        feeds: sample inputs by name.
        tolerance: largest difference allowed, relative to the largest magnitude of the output. Folding a scale into
            weights rounds again, so outputs are equal only up to rounding.
    """

    run: Callable[[ir.Model, dict[str, npt.NDArray[Any]]], dict[str, npt.NDArray[Any]]]
    feeds: Mapping[str, npt.NDArray[Any]]
    tolerance: float = 1e-4

    def outputs(self, model: ir.Model) -> Outputs:
        """Return the model's outputs on the sample inputs."""
        return self.run(model, dict(self.feeds))

    def difference(self, before: Outputs, after: Outputs) -> str | None:
        """Return what differs between two sets of outputs, None if nothing does."""
        if list(before) != list(after):
            return f"outputs {list(before)} became {list(after)}"
        for name, old in before.items():
            difference = self._differs(old, after[name])
            if difference:
                return f"output '{name}' {difference}"
        return None

    def _differs(self, old: Any, new: Any) -> str | None:
        import numpy as np

        if not isinstance(old, np.ndarray) or not isinstance(new, np.ndarray):  # a sequence or an optional
            return None if repr(old) == repr(new) else "changed"
        if old.dtype != new.dtype or old.shape != new.shape:
            return f"was {old.dtype}{list(old.shape)} and became {new.dtype}{list(new.shape)}"
        if not np.issubdtype(old.dtype, np.floating):
            return (
                None
                if np.array_equal(old, new)
                else f"changed in {np.count_nonzero(old != new)} of {old.size} elements"
            )
        finite = np.isfinite(old)
        if not np.array_equal(np.where(finite, 0, old), np.where(np.isfinite(new), 0, new), equal_nan=True):
            return "changed where it is infinite or NaN"
        old, new = old[finite].astype(np.float64), new[finite].astype(np.float64)
        if old.size == 0:
            return None
        error, largest = float(np.max(np.abs(old - new))), float(np.max(np.abs(old)))
        allowed = self.tolerance * largest + float(np.finfo(np.float32).tiny)
        return None if error <= allowed else f"changed by up to {error:.3g}, values being up to {largest:.3g}"


def checker_complaint(model: ir.Model) -> str | None:
    """Return the first line of what the ONNX checker finds wrong with `model`, None if it finds nothing."""
    from onnx_ir.passes.common import CheckerPass

    try:
        CheckerPass()(model.clone())  # of its own: the pass takes big initializers out and puts them back at the end
    except Exception as error:  # ValidationError, or a model that does not even serialize
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return None
