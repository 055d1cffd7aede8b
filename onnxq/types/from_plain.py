"""The way back from plain data: a dataclass from what `plain` made of it, checked field by field."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

from onnxq.errors import OnnxqError, nearest

T = TypeVar("T")


class _WrongError(Exception):
    """What is wrong, and where in the data."""


def from_plain(cls: type[T], data: Any, *, what: str, error: type[OnnxqError]) -> T:
    """Build a dataclass from plain data, by the types of its fields.

    Fields may be strings, numbers, booleans, enums, literals, arrays, dataclasses, any of them or None, unions of
    dataclasses (told apart by their field `kind`), and tuples and mappings of these. Whole numbers are taken for floats
    too, and "inf", "-inf" and "nan" for the floats they name.

    Args:
        cls: a dataclass. data: of `plain`, or read from JSON. what: names the data in messages ("plan").
        error: what to raise.

    Raises:
        error: an unknown key (with the nearest spelling), a missing one, or a value of the wrong type; says where.
    """
    try:
        return _dataclass(cls, data, "")
    except _WrongError as wrong:
        raise error(f"{what}: {wrong}") from None


def _dataclass(cls: type[T], data: Any, where: str) -> T:
    if not isinstance(data, dict):
        raise _expected("an object", data, where)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise _WrongError(f"unknown key '{_join(where, key)}'{nearest(str(key), fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise _WrongError(f"'{_join(where, name)}' is missing")
    hints = _hints(cls)
    values: dict[str, Any] = {name: _value(hints[name], entry, _join(where, name)) for name, entry in data.items()}
    try:
        return cls(**values)
    except (OnnxqError, ValueError) as error:
        raise _WrongError(f"{where}: {error}") from None


def _hints(cls: type) -> dict[str, Any]:
    import numpy as np
    import numpy.typing as npt

    # The data types name numpy for type checkers only, so that importing them does not load it.
    return typing.get_type_hints(cls, localns={"np": np, "npt": npt})


def _value(hint: Any, data: Any, where: str) -> Any:
    import numpy as np

    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    result: Any
    if hint is Any:
        result = data
    elif origin in (typing.Union, types.UnionType):
        result = _union(arguments, data, where)
    elif origin is typing.Literal:
        result = _one_of(dict.fromkeys(arguments), data, where)
    elif origin is tuple:
        result = _tuple(arguments, data, where)
    elif origin is np.ndarray:
        result = _array(typing.get_args(arguments[1])[0], data, where)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        result = _mapping(arguments, data, where)
    elif dataclasses.is_dataclass(hint):
        result = _dataclass(typing.cast(type, hint), data, where)
    elif issubclass(hint, Enum):
        result = hint(_one_of({member.value: None for member in hint}, data, where))
    else:
        result = _scalar(hint, data, where)
    return result


def _union(options: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    if len(options) == 1:
        return _value(options[0], data, where)
    kinds = {typing.get_args(_hints(option)["kind"])[0]: option for option in options}
    if not isinstance(data, dict):
        raise _expected("an object", data, where)
    kind = _one_of(dict.fromkeys(kinds), data.get("kind"), _join(where, "kind"))
    return _dataclass(kinds[kind], data, where)


def _tuple(arguments: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise _expected("a list", data, where)
    if len(arguments) == 2 and arguments[1] is ...:
        arguments = (arguments[0],) * len(data)
    if len(arguments) != len(data):
        raise _expected(f"a list of {len(arguments)}", data, where)
    pairs = enumerate(zip(arguments, data, strict=True))
    return tuple(_value(hint, entry, f"{where}[{index}]") for index, (hint, entry) in pairs)


def _mapping(arguments: tuple[Any, ...], data: Any, where: str) -> dict[Any, Any]:
    if not isinstance(data, dict):
        raise _expected("an object", data, where)
    key, hint = arguments
    if key is int and not all(name.isdecimal() for name in data):
        raise _expected("an object with whole numbers for keys", data, where)
    return {key(name): _value(hint, entry, f"{where}['{name}']") for name, entry in data.items()}


def _array(dtype: type, data: Any, where: str) -> Any:
    import numpy as np

    try:
        numbers = np.array(data, dtype=np.float64)
    except (TypeError, ValueError):
        raise _expected("a number, or nested lists of numbers", data, where) from None
    with np.errstate(over="ignore", invalid="ignore"):
        array: Any = numbers.astype(dtype)
    if issubclass(dtype, np.integer) and not np.array_equal(array, numbers):
        raise _expected("whole numbers", data, where)
    return array


def _scalar(hint: type, data: Any, where: str) -> Any:
    if hint is float and (data in ("inf", "-inf", "nan") or (isinstance(data, int) and not isinstance(data, bool))):
        return float(data)
    if not isinstance(data, hint) or (isinstance(data, bool) and hint is not bool):
        names = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
        raise _expected(names.get(hint, hint.__name__), data, where)
    return data


def _one_of(known: Mapping[Any, None], data: Any, where: str) -> Any:
    if not isinstance(data, str) or data not in known:
        raise _WrongError(f"{where}: unknown value {data!r}{nearest(str(data), map(str, known))}")
    return data


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _expected(expected: str, data: Any, where: str) -> _WrongError:
    shown = repr(data)
    shown = shown if len(shown) < 60 else f"{shown[:57]}..."
    return _WrongError(f"{where or 'it'}: expected {expected}, found {shown}")
