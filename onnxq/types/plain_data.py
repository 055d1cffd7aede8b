"""Data types as plain data and back: what JSON can hold, complete, in a fixed order, checked when it is read."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Hashable, Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ConfigDict, PlainValidator, TypeAdapter, ValidationError

from onnxq.errors import OnnxqError, nearest

T = TypeVar("T")

_UNKNOWN = "unexpected_keyword_argument"


def plain(value: Any) -> Any:
    """Return `value` as dicts, lists, strings, numbers, booleans and None.

    Dataclasses become dicts in the order of their fields, mappings keep their order, enums become their values, arrays
    and numpy scalars their numbers (float32 as the double of the same value, so nothing is lost). JSON has neither
    infinities nor NaN: they become the strings "inf", "-inf" and "nan", which Python's `float` reads.

    Raises:
        TypeError: a value of another kind.
    """
    result: Any
    match value:
        case None | bool() | int() | str() if not isinstance(value, Enum):
            result = value
        case Enum():
            result = plain(value.value)
        case float():
            result = value if math.isfinite(value) else str(value)
        case PurePath():
            result = str(value)
        case Mapping():
            result = {_key(key): plain(entry) for key, entry in value.items()}
        case Sequence() | frozenset() | set():
            entries = value if isinstance(value, Sequence) else sorted(value)
            result = [plain(entry) for entry in entries]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            result = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        case _ if hasattr(value, "tolist"):  # numpy
            result = plain(value.tolist())
        case _:
            raise TypeError(f"no plain form for a {type(value).__name__}")
    return result


def _key(key: Any) -> str:
    return str(key.value if isinstance(key, Enum) else key)


def _float(value: Any) -> Any:
    return float(value) if value in ("inf", "-inf", "nan") else value


Real = Annotated[float, BeforeValidator(_float)]
"""A float that may be infinite or NaN."""


def from_plain(cls: type[T], data: Any, *, what: str, error: type[OnnxqError]) -> T:
    """Return a dataclass from what `plain` made of it, checked by pydantic against the types of its fields.

    Types are not converted, except whole numbers to floats. Dataclasses in a union differ in their field `kind`.

    Args:
        cls: a dataclass.
        data: of `plain`, or read from JSON.
        what: names the data in messages ("plan").
        error: what to raise.

    Raises:
        error: an unknown key (with the nearest spelling), a missing one, or a value of the wrong type; says where.
    """
    try:
        entries: tuple[T] = _reader(typing.cast(Hashable, cls)).validate_json(json.dumps([data]))
    except ValidationError as wrong:
        # A misspelt key explains why another is missing.
        first = min(wrong.errors(), key=lambda entry: entry["type"] != _UNKNOWN)
        raise error(f"{what}: {_explain(cls, first)}") from None
    return entries[0]


@functools.cache
def _reader(cls: Any) -> TypeAdapter[Any]:
    # The configuration of the tuple holds for the dataclasses in it; theirs would have to stand in each.
    reader: TypeAdapter[Any] = TypeAdapter(tuple[cls], config=ConfigDict(extra="forbid", strict=True, defer_build=True))
    reader.rebuild(_types_namespace=_names())
    return reader


def _names() -> dict[str, Any]:
    """Return what the data types import for type checkers only, so that loading them does not load numpy."""
    import numpy as np

    return {"np": np, "npt": types.SimpleNamespace(NDArray=_Array)}


class _Array:
    """Stands in for `numpy.typing.NDArray`: `_Array[np.float32]` reads nested lists of numbers."""

    def __class_getitem__(cls, dtype: type) -> Any:
        return Annotated[Any, PlainValidator(functools.partial(_array, dtype))]


def _array(dtype: type, data: Any) -> Any:
    import numpy as np

    try:
        numbers = np.array(data, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"expected a number, or nested lists of numbers, found {_short(data)}") from None
    with np.errstate(over="ignore", invalid="ignore"):
        array: Any = numbers.astype(dtype)
    if issubclass(dtype, np.integer) and not np.array_equal(array, numbers):
        raise ValueError(f"expected whole numbers, found {_short(data)}")
    return array


def _explain(cls: type, entry: Any) -> str:
    """Return what is wrong with the data of a dataclass and where, from one of pydantic's errors."""
    parts, kind = entry["loc"][1:], entry["type"]
    where, _ = _locate(cls, parts)
    if kind == "missing":
        return f"'{where}' is missing"
    if kind == _UNKNOWN:
        _, owner = _locate(cls, parts[:-1])
        return f"unknown key '{where}'{nearest(str(parts[-1]), [field.name for field in dataclasses.fields(owner)])}"
    if kind == "union_tag_invalid":
        return f"{where}.kind: {unknown_value(entry['ctx']['tag'], entry['ctx']['expected_tags'])}"
    return f"{where or 'it'}: {explain(entry)}"


def _locate(hint: Any, parts: Sequence[str | int]) -> tuple[str, Any]:
    """Return a place within data in words, and the type of what lies there."""
    where = ""
    for part in parts:
        options = [option for option in typing.get_args(hint) if option is not types.NoneType]
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            hint = options[0]
            if len(options) > 1:  # this part is the `kind` of one
                hint = next(option for option in options if part in typing.get_args(_hints(option)["kind"]))
                continue
        if dataclasses.is_dataclass(hint):
            where += f".{part}"
            hint = _hints(typing.cast(type, hint)).get(str(part))
        elif isinstance(part, int):
            where += f"[{part}]"
            hint = typing.get_args(hint)[0]
        elif part != "[key]":
            where += f"['{part}']"
            hint = typing.get_args(hint)[1]
    return where.removeprefix("."), hint


def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, localns=_names())


def explain(entry: Any) -> str:
    """Return what is wrong with a value, from one of pydantic's errors, without the place."""
    message, shown = entry["msg"].removeprefix("Value error, "), entry["input"]
    if entry["type"] in ("enum", "literal_error") and isinstance(shown, str):
        return unknown_value(shown, entry["ctx"]["expected"])
    if entry["type"] == "value_error":
        return str(message)
    return f"{message[:1].lower()}{message[1:]}, found {_short(shown)}"


def unknown_value(value: str, expected: str) -> str:
    """Return that a word is unknown, and the nearest of those that pydantic lists."""
    known = [word.strip("'") for word in re.split(r", | or ", expected)]
    return f"unknown value '{value}'{nearest(value, known)}"


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) < 60 else f"{shown[:57]}..."
