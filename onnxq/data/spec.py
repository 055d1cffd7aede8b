"""Data sources with options as text, so that a recipe can hold them: `images:photos?size=224&mean=0.5&std=0.5`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from onnxq.data.audio import WaveOptions, WaveReader
from onnxq.data.images import ImageOptions, ImageReader
from onnxq.data.reader import DataReader
from onnxq.data.text import TextOptions, TextReader
from onnxq.errors import RecipeError, nearest

_KINDS: Mapping[str, tuple[Callable[[Path, Any], DataReader], type[Any]]] = {
    "images": (ImageReader, ImageOptions),
    "text": (TextReader, TextOptions),
    "wav": (WaveReader, WaveOptions),
}
_SPEC = re.compile(rf"({'|'.join(_KINDS)}):([^?]+)(?:\?(.*))?")
_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "tuple[int, ...]": lambda text: tuple(int(part) for part in text.replace("x", ",").split(",")),
    "tuple[float, ...]": lambda text: tuple(float(part) for part in text.split(",")),
}


def format_spec(kind: str, path: str | Path, **options: Any) -> str:
    """Return the text for a source of `kind` ("images", "text", "wav") with those `options` that are not None."""
    query = {
        name: ",".join(map(str, value)) if isinstance(value, (tuple, list)) else value
        for name, value in options.items()
        if value is not None
    }
    return f"{kind}:{path}" + (f"?{urlencode(query, safe=',/')}" if query else "")


def parse_spec(text: str) -> DataReader | None:
    """Return the reader that `text` describes, None if it is not of this form.

    Raises:
        RecipeError: unknown options, or values of the wrong kind.
        CalibrationError: no such data.
    """
    match = _SPEC.fullmatch(text)
    if match is None:
        return None
    kind, path, query = match.groups()
    reader, options = _KINDS[kind]
    kinds = {field.name: str(field.type) for field in fields(options)}
    values = {}
    for name, value in parse_qsl(query or "", keep_blank_values=True):
        if name not in kinds:
            raise RecipeError(f"{kind}: unknown option '{name}'{nearest(name, kinds)}")
        try:
            values[name] = _PARSERS[kinds[name]](value)
        except ValueError as error:
            raise RecipeError(f"{kind}: {name} cannot be '{value}'; it takes numbers") from error
    return reader(Path(path), options(**values))
