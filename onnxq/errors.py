"""What can go wrong, as one tree.

    OnnxqError
    ├── RecipeError             what the user asked for: unknown names, options that do not fit together  (exit code 2)
    ├── ModelError              the model cannot be read, is not valid, or cannot be saved                (exit code 3)
    ├── CalibrationError        the data does not fit the model, is empty, or holds NaN                   (exit code 3)
    ├── PlanError               a plan that does not fit its model                                        (exit code 3)
    ├── PassError               a pass failed or broke its contract                                       (exit code 3)
    ├── MissingDependencyError  onnxruntime or an optional library is not installed                       (exit code 2)
    └── VerificationError       worse than what the user allowed, or nothing can be quantized             (exit code 1)

    OnnxqWarning                a named warning; also listed in the report

A message says what was found, where (node or tensor name), and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar


class OnnxqError(Exception):
    """Base of every error that onnxq raises on purpose; `exit_code` is what the command line returns."""

    exit_code: ClassVar[int] = 3


class RecipeError(OnnxqError, ValueError):
    """The request itself is wrong: an unknown name, an option out of range, options that contradict.

    A ValueError, so that pydantic adds the place where a data type refuses its values.
    """

    exit_code: ClassVar[int] = 2


class ModelError(OnnxqError):
    """A model cannot be read, is no valid ONNX, or cannot be written."""


class CalibrationError(OnnxqError):
    """Calibration or evaluation data that does not fit the model."""


class PlanError(OnnxqError):
    """A plan that does not fit the model it is applied to."""


class PassError(OnnxqError):
    """A pass failed or broke its contract."""


class MissingDependencyError(OnnxqError):
    """onnxruntime, or an optional library, is needed and not installed."""

    exit_code: ClassVar[int] = 2


class VerificationError(OnnxqError):
    """The quantized model is worse than what the user allowed, or nothing in it can be quantized: nothing was written.

    `report` is the Report that tells all about it, None where there is none.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, report: Any = None) -> None:
        super().__init__(message)
        self.report = report


class OnnxqWarning(UserWarning):
    """Something the user should know; every one of them also stands in the report."""


def first_few(names: Iterable[str], most: int = 3) -> str:
    """Return names in quotes for a message, the first `most` of them: `'a', 'b', 'c', ...`."""
    names = list(names)
    return ", ".join(f"'{name}'" for name in names[:most]) + (", ..." if len(names) > most else "")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint for a misspelt word: `; did you mean 'percentile'?`, or the known words if none is near."""
    known = sorted(set(known))
    lowered = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{lowered[close[0]]}'?"
    if not known:
        return "; there are none"
    shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    return f"; known: {shown}"
