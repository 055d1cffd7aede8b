"""Source: samples for calibration and evaluation, streamed one batch at a time, each checked against the model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.data.batch import LABELS, Array, Batch, Checker
from onnxq.data.files import FileReader
from onnxq.data.reader import CallableReader, DataReader, IterableReader, RawItem, import_callable
from onnxq.data.signature import Signature
from onnxq.data.spec import parse_spec
from onnxq.errors import CalibrationError, RecipeError

_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class Source:
    """Samples for a model, streamed one batch at a time.

    Iterating yields {input name: array}, ready to run; every iteration starts from the beginning. `batches` yields the
    same with labels and places. After an iteration `warnings` says what was converted.

    Attributes:
        signature: the inputs that the batches fit.
        description: where the samples come from, for people.
        batch_size: samples a batch, None where the source decides.
        synthetic: whether the samples are made up.
    """

    def __init__(
        self,
        reader: DataReader,
        signature: Signature,
        *,
        samples: int | None = None,
        batch_size: int | None = None,
        synthetic: bool = False,
        warnings: Iterable[str] = (),
    ) -> None:
        for option, value in (("samples", samples), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise RecipeError(f"{option} must be at least 1, not {value}")
        self.signature = signature
        self.synthetic = synthetic
        self.description = reader.description
        self.warnings = list(warnings)
        self._reader = reader
        self._limit = samples
        self.batch_size = signature.fixed_batch or batch_size
        if batch_size is not None and not signature.has_batch_axis:
            self.warnings.append("the model has no batch axis: batch_size is ignored, each item is fed as it is")
            self.batch_size = None
        elif batch_size is not None and signature.fixed_batch not in (None, batch_size):
            self.warnings.append(f"the model's batch is fixed at {signature.fixed_batch}: batch_size is ignored")

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """Yield {input name: array} for each batch."""
        return (batch.feeds for batch in self.batches())

    def __len__(self) -> int:
        """Return the number of batches; raises TypeError if only reading shows it."""
        samples, size = self.samples, self.batch_size
        if samples is None or size is None:
            raise TypeError("the number of batches is not known before reading")
        return math.ceil(samples / size)

    @cached_property
    def samples(self) -> int | None:
        """Number of samples, None if only reading shows it."""
        count = self._reader.count(self.signature)
        if count is not None and self._limit is not None:
            return min(count, self._limit)
        return count

    @cached_property
    def sha256(self) -> str | None:
        """Hash of the data as hex digits; None for data that a program makes."""
        return self._reader.digest()

    @cached_property
    def labels(self) -> tuple[Array, ...] | None:
        """Expected results of the samples, one array a batch; None if the data has none."""
        labels = [batch.labels for batch in self.batches()]
        return None if any(entry is None for entry in labels) else tuple(entry for entry in labels if entry is not None)

    @property
    def repeatable(self) -> bool:
        """Return whether the data can be read any number of times, whatever its size."""
        return self._reader.repeatable

    @property
    def chooses_size(self) -> bool:
        """Return whether the source chooses the size of batches, so that it may be changed."""
        return self.batch_size is None and self._reader.asks_size and self.signature.has_batch_axis

    def head(self, samples: int) -> Source:
        """Return the first `samples` samples as a source of their own."""
        limit = samples if self._limit is None else min(samples, self._limit)
        return Source(self._reader, self.signature, samples=limit, batch_size=self.batch_size, synthetic=self.synthetic)

    def batches(self) -> Iterator[Batch]:
        """Yield the batches, checked.

        Raises:
            CalibrationError: data that cannot be read, does not fit the model, holds NaN, or is empty; says where.
        """
        checker = Checker(self.signature)
        checked = (self._check(item, checker) for item in self._reader.items(self.signature, self.batch_size))
        regrouped = checked if self.batch_size is None else _regroup(checked, self.batch_size)
        remaining, samples = self._limit, 0
        fixed = self.signature.fixed_batch
        for batch in regrouped:
            if fixed is not None and batch.samples != fixed:
                self._warn([f"the model's batch is fixed at {fixed}: the last {batch.samples} samples were left out"])
                continue
            whole = remaining is None or batch.samples <= remaining or fixed is not None
            part = batch if remaining is None or whole else batch.rows(0, remaining)
            samples += part.samples
            yield part
            self._warn(checker.warnings)
            if remaining is not None:
                remaining -= part.samples
                if remaining <= 0:
                    return
        if not samples:
            raise CalibrationError(f"{self.description} holds no sample; give at least one batch")

    def _check(self, item: RawItem, checker: Checker) -> Batch:
        values, labels = dict(item.values), None
        if LABELS not in self.signature.names and LABELS in values:
            labels = np.asarray(values.pop(LABELS))
        return checker.check(values, item.where, labels)

    def _warn(self, texts: list[str]) -> None:
        self.warnings += [text for text in texts if text not in self.warnings]


def open_source(
    source: Any,
    signature: Signature,
    *,
    samples: int | None = None,
    batch_size: int | None = None,
) -> Source:
    """Open calibration or evaluation data for a model.

    Args:
        source: an iterable of {input name: array}, or one such batch; a function that returns one; the path of an
            .npz, an .npy, or a folder of them; "package.module:function"; "images:...", "text:...", "wav:..." (see
            `spec`); a `DataReader`.
        signature: inputs of the model.
        samples: use at most this many, the first ones.
        batch_size: samples a run; None leaves the batches unchanged; files are read in pieces of moderate size.

    Raises:
        CalibrationError: no such data, or of an unknown kind. Its content is checked while reading.
    """
    if isinstance(source, Source):
        return source
    return Source(_reader(source), signature, samples=samples, batch_size=batch_size)


def _reader(source: Any) -> DataReader:
    if isinstance(source, DataReader):
        return source
    if isinstance(source, (str, Path)):
        described = parse_spec(source) if isinstance(source, str) else None
        if described is not None:
            return described
        path = Path(source)
        if not path.exists() and isinstance(source, str) and _CALLABLE.fullmatch(source):
            return CallableReader(import_callable(source), source)
        return FileReader(path)
    if isinstance(source, Mapping):
        return IterableReader([source])
    if isinstance(source, Iterable):
        return IterableReader(source)
    if isinstance(source, Callable):  # type: ignore[arg-type]
        return CallableReader(source, getattr(source, "__name__", "the function"))
    message = f"calibration data cannot be a {type(source).__name__}"
    raise CalibrationError(f"{message}; give batches {{input name: array}}, a path, or 'package.module:function'")


def _regroup(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Split and join batches to `size` samples; only neighbours of equal shapes are joined."""
    parts: list[Batch] = []
    for batch in batches:
        if parts and not _joinable(parts[-1], batch):
            yield _join(parts)
            parts = []
        start = 0
        while start < batch.samples:
            missing = size - sum(part.samples for part in parts)
            parts.append(batch.rows(start, start + missing) if start or batch.samples > missing else batch)
            start += missing
            if sum(part.samples for part in parts) == size:
                yield _join(parts)
                parts = []
    if parts:
        yield _join(parts)


def _joinable(first: Batch, second: Batch) -> bool:
    def shapes(batch: Batch) -> list[object]:
        return [(array.shape[1:], array.ndim or array.tolist()) for array in batch.feeds.values()]

    return shapes(first) == shapes(second) and (first.labels is None) == (second.labels is None)


def _join(parts: list[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    feeds = {
        name: np.concatenate([part.feeds[name] for part in parts]) if array.ndim else array
        for name, array in parts[0].feeds.items()
    }
    labels = [part.labels for part in parts if part.labels is not None]
    return Batch(
        feeds=feeds,
        where=parts[0].where,
        samples=sum(part.samples for part in parts),
        labels=np.concatenate(labels) if labels else None,
    )
