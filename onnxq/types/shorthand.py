"""Options as short text, for command lines and recipe files: `percentile:percentile=99.9`, `uint8,per-tensor`."""

from __future__ import annotations

import re
from dataclasses import fields

from onnxq.errors import nearest
from onnxq.types.scheme import QuantType, Rounding, Scheme

Scalar = bool | int | float | str

_PARTS = frozenset(part.name for part in fields(Scheme)) | {"method"}
_SYMMETRY = {"symmetric": True, "asymmetric": False}
_CODEBOOK = "codebook(4)"
_GRANULARITIES = ("per-tensor", "per-channel", "per-token", "per-block(32)")


def scalar(text: str) -> Scalar:
    """Return the value that `text` says: true, false, a whole number, a decimal number, or a word."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def method(text: str) -> dict[str, object]:
    """Read `name` or `name:option=value,option=value`.

    Raises:
        ValueError: an option without a value.
    """
    name, _, rest = text.partition(":")
    options = {}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise ValueError(f"'{part}' is not an option; write `{name}:option=value,...`")
        options[key.strip()] = scalar(value.strip())
    return {"name": name.strip(), "options": options}


def scheme(text: str) -> dict[str, object]:
    """Read the parts of a scheme, in any order: `uint8,asymmetric,per-channel`; other parts as `narrow=false`.

    What follows `method=name:option=value` as `option=value`, and is not part of a scheme, is one more of its options.

    Raises:
        ValueError: a word that is no part of a scheme, with the nearest that is, or a part given twice.
    """
    parts: dict[str, object] = {}
    begun = False  # options of a method
    for word in filter(None, (word.strip() for word in text.split(","))):
        if begun and "=" in word and word.partition("=")[0].strip() not in _PARTS:
            parts["method"] = f"{parts['method']},{word}"
            continue
        key, value = _part(word)
        begun = key == "method" and ":" in str(value)
        if key in parts:
            raise ValueError(f"'{word}' gives the {key} a second time")
        parts[key] = value
    return parts


def _part(word: str) -> tuple[str, object]:
    key, equals, value = word.partition("=")
    if equals:
        return key.strip(), scalar(value.strip())
    if word in _SYMMETRY:
        return "symmetric", _SYMMETRY[word]
    if word.startswith("per-"):
        return "granularity", word
    if codebook := re.fullmatch(r"codebook\((\d+)\)", word):
        return "codebook", int(codebook[1])
    for name, words in (("dtype", QuantType), ("rounding", Rounding)):
        if word in set(words):
            return name, word
    known = [*QuantType, *Rounding, *_SYMMETRY, *_GRANULARITIES, _CODEBOOK]
    raise ValueError(f"unknown word '{word}'{nearest(word, map(str, known))}; other parts are written `part=value`")
