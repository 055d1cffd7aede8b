"""Quantizing a zoo model with the guard on, for benchmarks of what the guard makes of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxq

import models
from models import Feeds


def guarded(name: str, output: Path, batches: int, **options: Any) -> onnxq.Report:
    """Return the report of a model that is calibrated and compared on the first batches of its data.

    Args:
        name: of the model. output: path to write. batches: how many. options: of `onnxq.quantize`.
    """
    zoo = models.load(name)

    def first(found: Iterator[Feeds]) -> Iterator[Feeds]:
        return itertools.islice(found, batches)

    return onnxq.quantize(
        zoo.path,
        output,
        calibration=lambda: first(zoo.calibration()),
        evaluation=lambda: first(zoo.evaluation()),
        force=True,
        allow_empty=True,
        **options,
    )
