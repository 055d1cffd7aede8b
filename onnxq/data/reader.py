"""Readers: the interface of every kind of data source, and the two kinds that live in memory."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from onnxq.data.signature import Signature
from onnxq.errors import CalibrationError, OnnxqError, nearest

# A generator can be read once; this much of it is kept so that a later stage can read the same samples again.
RETAINED_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class RawItem:
    """An item of a reader: arrays by input name (and perhaps `labels`), unchecked, and their place."""

    values: Mapping[str, Any]
    where: str


@runtime_checkable
class DataReader(Protocol):
    """A kind of data source. `items` may be called several times, and holds one item in memory at a time.

    Attributes:
        description: for people: "calibration.npz".
        asks_size: whether `items` uses `size`; the items of others are regrouped.
        repeatable: whether `items` yields all of the data every time.
    """

    description: str
    asks_size: bool = False
    repeatable: bool = True

    def items(self, signature: Signature, size: int | None) -> Iterator[RawItem]:
        """Yield items of about `size` samples each; None leaves the choice to the reader."""
        ...

    def count(self, signature: Signature) -> int | None:
        """Return the number of samples, None if only reading shows it."""
        return None

    def digest(self) -> str | None:
        """Return the sha256 of the data as hex digits, None if it has no fixed content."""
        return None


class IterableReader(DataReader):
    """Reads an iterable of {input name: array}; models with one input may also be given bare arrays."""

    def __init__(self, iterable: Iterable[Any], description: str = "the data") -> None:
        self.description = description
        self._iterable = iterable
        # An iterator is used up by reading; lists and data loaders start again.
        self._stream = iter(iterable) if isinstance(iterable, Iterator) else None
        self.repeatable = self._stream is None
        self._retained: list[Any] = []
        self._retained_bytes = 0
        self._overflowed = False

    def items(self, signature: Signature, size: int | None) -> Iterator[RawItem]:
        """See `DataReader`."""
        if self._stream is None:
            yield from read_batches(iter(self._iterable), self.description, signature)
        else:
            yield from self._once(self._stream, signature)

    def count(self, signature: Signature) -> int | None:
        """See `DataReader`."""
        if not isinstance(self._iterable, Sequence) or not signature.inputs:
            return None
        if not signature.has_batch_axis:
            return len(self._iterable)
        first = next((spec.name for spec in signature.inputs if spec.dims), None)
        total = 0
        for item in self._iterable:
            array = item.get(first) if isinstance(item, Mapping) else item
            shape = getattr(array, "shape", ())
            if not shape:
                return None
            total += int(shape[0])
        return total

    def _once(self, stream: Iterator[Any], signature: Signature) -> Iterator[RawItem]:
        """Yield what was retained of an iterator, then the rest of it."""
        yield from tuple(self._retained)
        if self._overflowed:
            message = f"{self.description} can be read only once, and is needed again"
            raise CalibrationError(f"{message}; give a list, or a function that returns a fresh iterator")
        for item in read_batches(stream, self.description, signature, len(self._retained) + 1):
            # Generators may fill the same buffer again, so what is kept is a copy.
            kept = {name: np.array(value) for name, value in item.values.items()}
            self._retained_bytes += sum(array.nbytes for array in kept.values())
            self._overflowed = self._retained_bytes > RETAINED_BYTES
            if self._overflowed:
                yield item
                break
            self._retained.append(RawItem(values=kept, where=item.where))
            yield item
        yield from read_batches(stream, self.description, signature, len(self._retained) + 2)


class CallableReader(DataReader):
    """Reads the batches of a function without arguments, which is called again for every pass over the data."""

    def __init__(self, function: Callable[[], Iterable[Any]], description: str) -> None:
        self.description = description
        self._function = function

    def items(self, signature: Signature, size: int | None) -> Iterator[RawItem]:
        """See `DataReader`."""
        try:
            batches = self._function()
        except Exception as error:
            raise CalibrationError(f"{self.description} failed: {type(error).__name__}: {error}") from error
        if not isinstance(batches, Iterable) or isinstance(batches, (str, bytes, Mapping)):
            message = f"{self.description} returned {type(batches).__name__}"
            raise CalibrationError(f"{message}; it should return an iterable of {{input name: array}}")
        yield from read_batches(iter(batches), self.description, signature)


def read_batches(iterator: Iterator[Any], description: str, signature: Signature, number: int = 1) -> Iterator[RawItem]:
    """Yield the batches of user code, its exceptions as CalibrationError; batches are counted from `number`.

    Raises:
        CalibrationError: an exception of the code, or something that is not a batch.
    """
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except OnnxqError:
            raise
        except Exception as error:
            message = f"{description} failed at batch {number}: {type(error).__name__}: {error}"
            raise CalibrationError(message) from error
        where = f"{description}, batch {number}"
        yield RawItem(values=as_mapping(item, signature, where), where=where)
        number += 1


def import_callable(path: str) -> Callable[[], Iterable[Any]]:
    """Return the function that "package.module:name" names.

    Raises:
        CalibrationError: no such module or name (with the nearest spelling), or not callable.
    """
    module_name, _, attribute = path.partition(":")
    try:
        target: Any = importlib.import_module(module_name)
    except Exception as error:
        message = f"'{path}': cannot import '{module_name}': {type(error).__name__}: {error}"
        raise CalibrationError(f"{message}; check the name, and that it is on PYTHONPATH") from error
    for part in attribute.split("."):
        if not hasattr(target, part):
            names = [name for name in vars(target) if not name.startswith("_")]
            raise CalibrationError(f"'{path}': '{module_name}' has no '{part}'{nearest(part, names)}")
        target = getattr(target, part)
    if not callable(target):
        raise CalibrationError(f"'{path}' is a {type(target).__name__}, not a function that returns batches")
    return target  # type: ignore[no-any-return]


def as_mapping(item: Any, signature: Signature, where: str) -> Mapping[str, Any]:
    """Return an item of user data as {input name: array-like}; a bare array means the only input.

    Raises:
        CalibrationError: the item is neither.
    """
    if isinstance(item, Mapping):
        return item
    if isinstance(item, np.ndarray) or (hasattr(item, "__array__") and not np.isscalar(item)):
        if len(signature.inputs) == 1:
            return {signature.inputs[0].name: item}
        names = ", ".join(f"'{name}'" for name in signature.names)
        raise CalibrationError(f"{where} is a bare array, the model has the inputs {names}; give a dict of arrays")
    raise CalibrationError(f"{where} is a {type(item).__name__}; each batch should be a dict {{input name: array}}")
