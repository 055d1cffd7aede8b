"""One comparison of models: a reference and others run over the same data, of which only sums of errors are kept.

Outputs are read as sessions return them (`compare_outputs`), inner tensors through taps (`compare_tensors`), in groups
that fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxq.data.batch import Batch
from onnxq.data.source import Source
from onnxq.errors import ModelError
from onnxq.numerics.affine import dequantize
from onnxq.numerics.metrics import ErrorSums, argmax_agreement, as_array
from onnxq.progress import Progress, Silent
from onnxq.runtime.session import Session, open_session
from onnxq.runtime.taps import Taps
from onnxq.types.scheme import QuantParams

if TYPE_CHECKING:
    import onnx_ir as ir

Feeds: TypeAlias = Mapping[str, npt.NDArray[Any]]
Outputs: TypeAlias = Mapping[str, Any]
Run: TypeAlias = Callable[[Feeds], Outputs]
"""Runs a model once, such as `Session.run`."""

# Bytes: all tapped tensors of a run are in memory at once, in both models; so are the outputs that a reference keeps.
_MEMORY = 256 << 20
_FIRST_GROUP = 16
_GROWTH = 4


class Reference:
    """The outputs of a model with the optimizer off, batch by batch; iterating yields (batch, outputs by name).

    The model runs once over those batches whose outputs fit in memory, and again over the others in each iteration.
    """

    def __init__(self, model: ir.Model, source: Source, *, threads: int, memory: int = _MEMORY) -> None:
        """Prepare to run; the model is loaded with the first iteration.

        Args:
            model: what others are compared with.
            source: what to feed.
            threads: intra-op threads, 0 for all cores.
            memory: bytes that kept outputs may take; 0 where they are read only once.
        """
        self._model, self._source, self._threads = model, source, threads
        self._kept: list[Outputs] = []
        self._free = memory

    @cached_property
    def session(self) -> Session:
        """The session that runs the model.

        Raises:
            ModelError: the runtime cannot load the model.
        """
        return open_session(self._model, optimize=False, threads=self._threads)

    def __iter__(self) -> Iterator[tuple[Batch, Outputs]]:
        """Yield each batch of the source with the model's outputs; raises as a source and a session do."""
        for index, batch in enumerate(self._source.batches()):
            if index < len(self._kept):
                yield batch, self._kept[index]
                continue
            outputs = self.session.run(batch.feeds)
            self._free -= sum(as_array(value).nbytes for value in outputs.values())
            if self._free >= 0:
                self._kept.append(outputs)
            yield batch, outputs


class OutputSums:
    """Sums over all batches for one output.

    Attributes:
        errors: of each of the other models against the reference.
        kind: numpy's kind of the reference's elements ("f", "i", ...); "V" for types that numpy lacks.
        values: elements, in the model that has most.
        agreeing, positions: where the last of the other models agrees with the reference, of how many: in the arg-max
            over the last axis, in the value itself for what is not a float.
    """

    def __init__(self, others: int) -> None:
        self.errors = tuple(ErrorSums() for _ in range(others))
        self.kind = ""
        self.values = self.agreeing = self.positions = 0

    @property
    def is_float(self) -> bool:
        """Whether the output holds floats."""
        return self.kind in "fV"

    @property
    def is_numeric(self) -> bool:
        """Whether the output holds numbers or booleans, which can be compared."""
        return self.kind in "biufV"

    def add(self, expected: Any, actual: Sequence[Any], *, agreement: bool) -> None:
        """Add one batch: the reference's output and that of each other model."""
        x, arrays = as_array(expected), [as_array(value) for value in actual]
        if x.size or not self.kind:
            self.kind = x.dtype.kind
        self.values += max(x.size, *(array.size for array in arrays))
        if self.is_numeric:
            for errors, y in zip(self.errors, arrays, strict=True):
                errors.add(x, y)
        if agreement:
            counts = argmax_agreement(x, arrays[-1]) if self.is_float else _equal(x, arrays[-1])
            agreeing, positions = counts or (0, 0)
            self.agreeing += agreeing
            self.positions += positions


def compare_outputs(
    reference: Iterable[tuple[Batch, Outputs]],
    others: Sequence[Run],
    *,
    agreement: bool = False,
    max_samples: int | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, OutputSums], int]:
    """Run models over data and add up how far their outputs are from the reference's.

    Args:
        reference: batches, each with the outputs expected of it.
        others: models that return outputs of the same names.
        agreement: whether to count where the last of them agrees with the reference.
        max_samples: samples after which to stop; None for all.
        progress: reports every batch.

    Returns:
        The sums by output, in graph order, and the number of samples compared.

    Raises:
        ModelError: a model lacks an output of the reference.
    """
    progress = progress or Silent()
    sums: dict[str, OutputSums] = {}
    samples = 0
    for batch, expected in reference:
        outputs = [run(batch.feeds) for run in others]
        lacking = [name for name in expected if any(name not in each for each in outputs)]
        if lacking:
            names = ", ".join(f"'{name}'" for name in outputs[-1])
            raise ModelError(
                f"the models cannot be compared: output '{lacking[0]}' is missing in one, which has {names}"
            )
        for name, value in expected.items():
            entry = sums.setdefault(name, OutputSums(len(others)))
            entry.add(value, [each[name] for each in outputs], agreement=agreement)
        samples += batch.samples
        progress.advance(batch.samples)
        if max_samples is not None and samples >= max_samples:
            break
    return sums, samples


def _equal(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> tuple[int, int]:
    if x.shape != y.shape:
        return 0, max(x.size, y.size)
    return int(np.count_nonzero(x == y)), x.size


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorPair:
    """A tensor of the reference and its counterpart in the other models.

    Attributes:
        tensor: name in the reference.
        counterpart: name in the other models.
        node: path name of the node of the reference that the tensor is reported under.
        params: of the codes that the counterpart holds; None where it holds the values themselves.
    """

    tensor: str
    counterpart: str
    node: str = ""
    params: QuantParams | None = None


class TensorSums:
    """Sums over all batches for one pair of tensors.

    Attributes:
        pair: the tensors.
        errors: of each of the other models against the reference.
        kind: numpy's kind of the reference's elements; "" for a tensor that was never computed.
        alike: whether all models computed it equally often and in the same shapes.
    """

    def __init__(self, pair: TensorPair, others: int) -> None:
        self.pair = pair
        self.errors = tuple(ErrorSums() for _ in range(others))
        self.kind = ""
        self.alike = True

    def add(self, expected: Sequence[npt.NDArray[Any]], actual: Sequence[Sequence[npt.NDArray[Any]]]) -> None:
        """Add one batch: what the tensor held each time it was computed, in the reference and in each other model."""
        for errors, values in zip(self.errors, actual, strict=True):
            self.alike &= [as_array(x).shape for x in expected] == [as_array(y).shape for y in values]
            for x, y in zip(expected, values, strict=False):
                self.kind = as_array(x).dtype.kind
                if self.kind in "biufV":
                    errors.add(x, y if self.pair.params is None else dequantize(y, self.pair.params))


def compare_tensors(
    reference: ir.Model,
    others: Sequence[tuple[ir.Model, bool]],
    pairs: Sequence[TensorPair],
    feeds: Iterable[Feeds],
    *,
    threads: int,
    growth: int = _GROWTH,
    progress: Progress | None = None,
) -> Iterator[TensorSums]:
    """Run models over data and add up how far tensors inside them are from the reference's.

    Args:
        reference: what others are compared with, run with the optimizer off.
        others: models, each with whether onnxruntime optimizes it (around the tensors that are read).
        pairs: the tensors to compare.
        feeds: what to run; read once for each group of tensors.
        threads: intra-op threads, 0 for all cores.
        growth: how many times larger than the one before a group may be, if memory allows; 1 for groups of one size.
        progress: reports each group.

    Yields:
        The sums of each pair, in the order given.

    Raises:
        ModelError: the runtime cannot load or run one of the models.
    """
    progress = progress or Silent()
    start, size = 0, _FIRST_GROUP
    while start < len(pairs):
        group = pairs[start : start + size]
        counterparts = list(dict.fromkeys(pair.counterpart for pair in group))
        expected = Taps(reference, [pair.tensor for pair in group], optimize=False, threads=threads)
        actual = [Taps(model, counterparts, optimize=optimize, threads=threads) for model, optimize in others]
        sums = [TensorSums(pair, len(others)) for pair in group]
        taken = 1
        for batch in feeds:
            x, ys = expected.run(batch), [taps.run(batch) for taps in actual]
            for entry in sums:
                entry.add(x[entry.pair.tensor], [y[entry.pair.counterpart] for y in ys])
            taken = max(taken, 2 * sum(as_array(array).nbytes for arrays in x.values() for array in arrays))
        yield from sums
        progress.advance(len(group))
        start += len(group)
        size = max(1, min(growth * size, _MEMORY * len(group) // taken)) if growth > 1 else size
