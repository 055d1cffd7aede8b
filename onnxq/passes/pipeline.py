"""Pipelines as text: `infer-shapes,convert-version{opset=21},fold-constants`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxq.errors import RecipeError
from onnxq.passes import passes
from onnxq.types.shorthand import Scalar, scalar

_STEP = re.compile(r"(?P<name>[^\s,{}]+)\s*(\{(?P<options>[^{}]*)\})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class PassStep:
    """One pass of a pipeline, and the options to set it up with."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the step as text that `parse` reads back; options that no text can give (a plan) are left out."""
        plain = {key: value for key, value in self.options.items() if isinstance(value, Scalar)}
        options = " ".join(f"{key}={_show(value)}" for key, value in plain.items())
        return f"{self.name}{{{options}}}" if options else self.name


def parse(text: str) -> tuple[PassStep, ...]:
    """Read a pipeline: names with commas between, each with its options in braces (`{opset=21 strict=true}`) if any.

    A name may come more than once. Option values are whole numbers, decimal numbers, true, false, or words.

    Raises:
        RecipeError: an unknown pass or option (with the nearest spelling), or text that is not a pipeline.
    """
    steps: list[PassStep] = []
    rest = text.strip()
    while rest:
        match = _STEP.match(rest)
        if not match:
            raise RecipeError(
                f"pipeline: expected the name of a pass at '{rest[:30]}'; write `name,name{{option=value}}`"
            )
        step = PassStep(name=match["name"], options=_options(match["name"], match["options"] or ""))
        passes.get(step.name).check(step.options)
        steps.append(step)
        rest = rest[match.end() :].lstrip()
        if rest and not rest.startswith(","):
            raise RecipeError(f"pipeline: expected a comma at '{rest[:30]}'")
        rest = rest[1:].lstrip()
    return tuple(steps)


def show(steps: Iterable[PassStep]) -> str:
    """Return the pipeline as text."""
    return ",".join(map(str, steps))


def _options(name: str, text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in text.split():
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise RecipeError(f"pipeline: pass '{name}' has the option '{part}'; write `option=value`")
        options[key] = scalar(value)
    return options


def _show(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
