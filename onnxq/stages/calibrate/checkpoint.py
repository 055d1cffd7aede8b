"""Checkpoints: what was observed so far, so that an interrupted calibration resumes where it was.

A checkpoint is a statistics file. Its fingerprint identifies the whole job (model, data, tensors, options), and its
samples for the place in the data: everything before it is in, nothing after it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxq.data.source import Source
from onnxq.data.statistics_file import load_statistics, save_statistics
from onnxq.errors import CalibrationError
from onnxq.numerics.histogram import Accumulator
from onnxq.stages.calibrate.observe import ObserveOptions
from onnxq.types.statistics import Statistics

INTERVAL_SECONDS = 10.0


class CalibrationCheckpoint:
    """Keeps the state of one wave in a file.

    Attributes:
        note: why an existing file was not used; "" if it was, or there was none.
    """

    def __init__(self, path: Path, job: str) -> None:
        self._path = path
        self._job = job
        self._saved_at = time.monotonic()
        self.note = ""

    def load(self) -> Statistics | None:
        """Return what was observed so far; None if there is no file of this job."""
        if not self._path.exists():
            return None
        try:
            statistics = load_statistics(self._path)
        except CalibrationError as error:
            self.note = f"checkpoint not used, calibration begins afresh: {error}"
            return None
        if statistics.fingerprint != self._job:
            self.note = f"checkpoint {self._path} is of another model, data or options; calibration begins afresh"
            return None
        return statistics

    def save(self, tensors: Mapping[str, Accumulator], samples: int, *, now: bool = False) -> None:
        """Write the state, if the last time was a while ago or `now`."""
        if now or time.monotonic() - self._saved_at >= INTERVAL_SECONDS:
            statistics = {name: accumulator.result() for name, accumulator in tensors.items()}
            save_statistics(Statistics(tensors=statistics, fingerprint=self._job, samples=samples), self._path)
            self._saved_at = time.monotonic()

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)


def job_key(model: str, source: Source, tensors: Sequence[str], options: ObserveOptions) -> str:
    """Return what identifies a calibration, as 64 hex digits.

    Args:
        model: the model's fingerprint.
        source: the data.
        tensors: the tensors of the wave.
        options: how they are observed.
    """
    parts = [
        model,
        source.sha256 or source.description,
        f"{source.samples} {source.batch_size} {options.subsample} {options.histograms}",
        *sorted(f"{name} {options.channel_axes.get(name)} {name in options.products}" for name in tensors),
    ]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
