"""What the zoo hands out: a model with its data, and the figure of merit that its labels allow."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Feeds: TypeAlias = dict[str, Array]
"""One batch: graph input name -> array."""
Run: TypeAlias = Callable[[Feeds], dict[str, Array]]
"""Runs a model once: feeds -> every graph output by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A figure of merit computed on labelled data that the metric carries itself.

    ``compute`` takes a function that runs the model under test and returns one number; it depends on nothing else, so
    a float model and its quantized form are judged by the same samples.
    """

    name: str
    higher_is_better: bool
    compute: Callable[[Run], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class ZooModel:
    """A real model on disk and real inputs for it.

    ``calibration`` and ``evaluation`` each return a fresh iterator of batches, made one at a time; they share no
    sample. ``metric`` is None where there are no labels to judge by.
    """

    name: str
    path: Path
    calibration: Callable[[], Iterator[Feeds]]
    evaluation: Callable[[], Iterator[Feeds]]
    metric: Metric | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A line of the zoo's list: known without fetching anything."""

    name: str
    summary: str
    load: Callable[[], ZooModel]
