"""Passes: what changes a model. Each is built on `onnx_ir.passes` and registered here under its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from onnxq.errors import RecipeError, nearest
from onnxq.registry import Registry

if TYPE_CHECKING:
    import onnx_ir as ir

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True, slots=True)
class PassEntry:
    """A named pass.

    Attributes:
        name: as written in pipelines.
        summary: one line for listings.
        preserves_semantics: the claim that the model computes the same before and after, which verify-each checks.
        factory: makes the pass; its keyword parameters are the pass's options.
    """

    name: str
    summary: str
    preserves_semantics: bool
    factory: Callable[..., ir.passes.PassBase]

    @property
    def options(self) -> Mapping[str, Any]:
        """The options by name, each with its default (`inspect.Parameter.empty` where one must be given)."""
        return _options(self.factory)

    def check(self, options: Iterable[str]) -> None:
        """Raise RecipeError, with the nearest spelling, for an option that the pass does not have."""
        for name in options:
            if name not in self.options:
                raise RecipeError(f"pass '{self.name}' has no option '{name}'{nearest(name, self.options)}")

    def make(self, options: Mapping[str, Any]) -> ir.passes.PassBase:
        """Return the pass, set up with `options`.

        Raises:
            RecipeError: an option that the pass does not have, or one that it needs is missing.
        """
        self.check(options)
        for name, default in self.options.items():
            if default is inspect.Parameter.empty and name not in options:
                raise RecipeError(f"pass '{self.name}' needs the option '{name}'")
        return self.factory(**options)


@cache  # a signature takes longer to read than most passes take to run
def _options(factory: Callable[..., ir.passes.PassBase]) -> Mapping[str, Any]:
    return {parameter.name: parameter.default for parameter in inspect.signature(factory).parameters.values()}


passes: Registry[PassEntry] = Registry("pass", "onnxq.passes")


def register_pass(name: str, *, preserves_semantics: bool) -> Callable[[F], F]:
    """Return a decorator that registers a pass class, or a function making one; its docstring's first line is listed.

    Raises:
        RecipeError: the name is taken.
    """

    def add(factory: F) -> F:
        summary = (inspect.getdoc(factory) or "").partition("\n")[0].rstrip(".")
        entry = PassEntry(name=name, summary=summary, preserves_semantics=preserves_semantics, factory=factory)
        passes.add(name, entry)
        return factory

    return add
