"""What `onnxq passes` lists."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxq.passes import passes


@dataclass(frozen=True, kw_only=True, slots=True)
class PassInfo:
    """One line of the list.

    Attributes:
        name: as written in pipelines, with its options and their defaults (`convert-version{opset=13}`).
        summary: what it does.
        preserves_semantics: whether it claims that the model computes the same afterwards.
    """

    name: str
    summary: str
    preserves_semantics: bool


def list_passes() -> tuple[PassInfo, ...]:
    """Return every registered pass, plugins' included, sorted by name."""
    return tuple(
        PassInfo(
            name=name + _options(entry.options), summary=entry.summary, preserves_semantics=entry.preserves_semantics
        )
        for name, entry in passes.items()
    )


def _options(options: Mapping[str, Any]) -> str:
    shown = [name if value is inspect.Parameter.empty else f"{name}={value}" for name, value in options.items()]
    return f"{{{' '.join(shown)}}}" if shown else ""
