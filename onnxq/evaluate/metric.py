"""What the user cares about: accuracy where the data has labels, or a metric of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxq.data.reader import import_callable
from onnxq.data.source import Source
from onnxq.errors import CalibrationError, RecipeError
from onnxq.progress import Progress
from onnxq.runtime.session import Session
from onnxq.types.report import MetricResult

Run: TypeAlias = Callable[[Mapping[str, npt.NDArray[Any]]], dict[str, npt.NDArray[Any]]]
"""Runs a model once: {input name: array} -> {output name: array}."""

Metric: TypeAlias = Callable[[Run], float]
"""Scores a model that it may run as often as it likes."""


def load_metric(path: str) -> Metric:
    """Return the metric that "package.module:function" names.

    Raises:
        RecipeError: no such module or function; with the nearest spelling.
    """
    if ":" not in path:
        raise RecipeError(f"metric '{path}': write it as 'package.module:function'")
    try:
        return import_callable(path)  # type: ignore[return-value]
    except CalibrationError as error:
        raise RecipeError(f"metric {error}") from error


def score(metric: Metric, float_served: Session, quantized_served: Session, progress: Progress) -> MetricResult:
    """Score both models with the user's metric; `progress` reports each.

    Raises:
        RecipeError: the metric fails, or returns something else than a finite number.
    """
    values = []
    for session, which in ((float_served, "float"), (quantized_served, "quantized")):
        values.append(score_one(metric, session, which))
        progress.advance(1)
    return MetricResult(name=name_of(metric), float_value=values[0], quantized_value=values[1])


def name_of(metric: Metric) -> str:
    """Return what a metric is called."""
    return getattr(metric, "__name__", type(metric).__name__)


def score_one(metric: Metric, session: Session, which: str, *, strict: bool = True) -> float:
    """Score one model with the user's metric; `which` model it is, for messages. Not `strict`: NaN is an answer.

    Raises:
        RecipeError: the metric fails, or returns something else than a finite number.
    """
    name = name_of(metric)
    try:
        value = metric(session.run)
    except RecipeError:
        raise
    except Exception as error:
        message = f"metric '{name}' failed on the {which} model: {type(error).__name__}: {error}"
        raise RecipeError(f"{message}; it is called with a function run(feeds) -> outputs") from error
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise RecipeError(f"metric '{name}' returned {value!r} on the {which} model; {_WANTED}") from None
    if not math.isfinite(number) and strict:
        raise RecipeError(f"metric '{name}' returned {value!r} on the {which} model; {_WANTED}")
    return number


_WANTED = "it should return a finite number"


def accuracy(
    float_served: Session, quantized_served: Session, source: Source, progress: Progress
) -> tuple[MetricResult | None, list[str]]:
    """Score both models on labelled data: the share of labels that the arg-max of the first output hits.

    Args:
        float_served, quantized_served: both models, output (..., classes) first.
        source: batches with integer labels (...).
        progress: reports every batch.

    Returns:
        The result, None without labels; and warnings, if there are labels that fit no classification.
    """
    output = float_served.outputs[0]
    hits, total = [0, 0], 0
    for batch in source.batches():
        if batch.labels is None:
            return None, []
        predicted = [_classes(session, output, batch.feeds) for session in (float_served, quantized_served)]
        labels = batch.labels
        if labels.dtype.kind not in "iu" or any(entry is None or entry.shape != labels.shape for entry in predicted):
            shape = list(labels.shape)
            message = f"no accuracy: the {labels.dtype} labels {shape} do not fit the classes in output '{output}'"
            return None, [f"{message}; give one class number for each sample, or a metric of your own"]
        for index, entry in enumerate(predicted):
            hits[index] += int(np.count_nonzero(entry == labels))
        total += labels.size
        progress.advance(batch.samples)
    shares = [count / total for count in hits]
    return MetricResult(name="accuracy", float_value=shares[0], quantized_value=shares[1]), []


def _classes(session: Session, output: str, feeds: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.intp] | None:
    scores = np.asarray(session.run(feeds, [output])[output])
    return np.argmax(scores, axis=-1) if scores.ndim and scores.dtype.kind in "fV" else None
