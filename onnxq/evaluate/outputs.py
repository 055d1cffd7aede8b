"""How far each graph output moved: the float and the quantized model, batch by batch, in constant memory."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnxq.evaluate.comparison import OutputSums, Reference, compare_outputs
from onnxq.evaluate.served.gaps import notable
from onnxq.progress import Progress
from onnxq.runtime.session import Session
from onnxq.types.report import OutputError


def output_errors(
    reference: Reference, plain: Session, served: Session, progress: Progress
) -> tuple[tuple[OutputError, ...], int, list[str]]:
    """Compare the quantized model's outputs with the float model's over all batches.

    Args:
        reference: the float model.
        plain: the quantized model as its graph says, with the optimizer off.
        served: the quantized model as served.
        progress: reports every batch.

    Returns:
        One error for each output in graph order, the number of samples, and warnings about values that cannot be
        compared.
    """
    sums, samples = compare_outputs(reference, (plain.run, served.run), agreement=True, progress=progress)
    warnings = [
        f"output '{name}': {broken} values are NaN, infinite or of another shape in one of the models only"
        for name, entry in sums.items()
        if (broken := entry.errors[1].broken)
    ]
    warnings += [
        f"output '{name}' held no values in any sample: nothing was compared; give samples that fill it"
        for name, entry in sums.items()
        if not entry.values
    ]
    return tuple(_error(name, entry) for name, entry in sums.items()), samples, warnings


def _error(name: str, sums: OutputSums) -> OutputError:
    plain, served = sums.errors
    return OutputError(
        name=name,
        sqnr_plain=plain.sqnr_db if sums.is_numeric else math.nan,
        sqnr_served=served.sqnr_db if sums.is_numeric else math.nan,
        max_abs_served=served.max_error if sums.is_numeric else math.nan,
        agreement_served=sums.agreeing / sums.positions if sums.positions else None,
        values=sums.values,
    )


def served_differs(outputs: tuple[OutputError, ...], why: Callable[[], str]) -> list[str]:
    """Return a warning for each output whose error as served is not what the graph promises.

    Args:
        outputs: compared.
        why: looks the cause up, in words; asked only where an output is worse as served.
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
