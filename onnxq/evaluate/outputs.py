"""How far each graph output moved: the float and the quantized model, batch by batch, in constant memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxq.data.source import Source
from onnxq.evaluate.served.gaps import notable
from onnxq.numerics.metrics import ErrorSums, argmax_agreement, as_array
from onnxq.progress import Progress
from onnxq.runtime.session import Session
from onnxq.types.report import OutputError


@dataclass(kw_only=True, slots=True)
class _Output:
    """Sums for one output."""

    plain: ErrorSums = field(default_factory=ErrorSums)
    served: ErrorSums = field(default_factory=ErrorSums)
    agreeing: int = 0
    positions: int = 0
    values: int = 0
    numeric: bool = True

    def add(self, reference: Any, plain: Any, served: Any) -> None:
        x, y, z = (as_array(value) for value in (reference, plain, served))
        self.values += max(x.size, y.size, z.size)
        if not _numeric(x):
            self.numeric = False
            self._count(_equal(x, z))
            return
        self.plain.add(x, y)
        self.served.add(x, z)
        self._count(_equal(x, z) if x.dtype.kind in "biu" else argmax_agreement(x, z))

    def _count(self, counted: tuple[int, int] | None) -> None:
        if counted is not None:
            self.agreeing += counted[0]
            self.positions += counted[1]

    def result(self, name: str) -> OutputError:
        return OutputError(
            name=name,
            sqnr_plain=self.plain.sqnr_db if self.numeric else math.nan,
            sqnr_served=self.served.sqnr_db if self.numeric else math.nan,
            max_abs_served=self.served.max_error if self.numeric else math.nan,
            agreement_served=self.agreeing / self.positions if self.positions else None,
            values=self.values,
        )


def output_errors(
    reference: Session,
    plain: Session,
    served: Session,
    source: Source,
    progress: Progress,
) -> tuple[tuple[OutputError, ...], int, list[str]]:
    """Compare the quantized model's outputs with the float model's over all batches of `source`.

    Args:
        reference: the float model, optimizer off. plain, served: the quantized model, as its graph says and as served.
        source: what to feed. progress: told of every batch.

    Returns:
        One error for each output in graph order, the number of samples, and warnings about values that cannot be
        compared.
    """
    sums = {name: _Output() for name in reference.outputs}
    samples = 0
    for batch in source.batches():
        expected, off, on = (session.run(batch.feeds) for session in (reference, plain, served))
        for name, entry in sums.items():
            entry.add(expected[name], off[name], on[name])
        samples += batch.samples
        progress.advance(batch.samples)
    warnings = [
        f"output '{name}': {entry.served.broken} values are NaN, infinite or of another shape in one of the models only"
        for name, entry in sums.items()
        if entry.served.broken
    ]
    warnings += [
        f"output '{name}' held no values in any sample: nothing was compared; give samples that fill it"
        for name, entry in sums.items()
        if not entry.values
    ]
    return tuple(entry.result(name) for name, entry in sums.items()), samples, warnings


def served_differs(outputs: tuple[OutputError, ...], why: Callable[[], str]) -> list[str]:
    """Return a warning for each output whose error as served is not what the graph promises.

    Args:
        outputs: compared. why: looks the cause up, in words; asked only where an output is worse as served.
    """
    warnings, cause = [], ""
    for output in outputs:
        plain, served = output.sqnr_plain, output.sqnr_served
        if not notable(plain, served):
            continue
        text = f"output '{output.name}': {served:.1f} dB as served, {plain:.1f} dB with the optimizer off"
        if served < plain:
            cause = cause or why()
        warnings.append(f"{text}; {cause if served < plain else 'better than the graph promises'}")
    return warnings


def _numeric(array: np.ndarray[Any, Any]) -> bool:
    # Extension types (bfloat16, float8, int4) are of kind V.
    return array.dtype.kind in "biufV"


def _equal(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> tuple[int, int]:
    if x.shape != y.shape:
        return 0, max(x.size, y.size)
    return int(np.count_nonzero(x == y)), x.size
