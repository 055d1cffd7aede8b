"""Data types as plain data: what JSON can hold, complete and in a fixed order."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Any


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
