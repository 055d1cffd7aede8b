"""Registries: a new calibrator, weight method, pass, operator fact, emitter or target is one new file.

A registry belongs to a package folder. Its entries are found by importing every module of that folder, and by loading
the installed entry points of the group `onnxq.plugins` (each names a module whose import registers things, or a
callable without arguments that does). There is no list to edit.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from onnxq.errors import RecipeError, nearest

PLUGIN_GROUP = "onnxq.plugins"

T = TypeVar("T")
U = TypeVar("U")

_plugins_loaded = False


def load_plugins() -> None:
    """Load every installed plugin once.

    Raises:
        RecipeError: a plugin cannot be imported; names the distribution and the cause.
    """
    global _plugins_loaded  # noqa: PLW0603 - entry points are loaded once a process
    if _plugins_loaded:
        return
    _plugins_loaded = True
    for entry in importlib.metadata.entry_points(group=PLUGIN_GROUP):
        try:
            loaded = entry.load()
            if callable(loaded):
                loaded()
        except Exception as error:
            where = entry.dist.name if entry.dist else entry.value
            message = f"plugin '{entry.name}' of {where} cannot be loaded: {error}; repair or uninstall it"
            raise RecipeError(message) from error


class Registry(Generic[T]):
    """Named entries of one kind, filled on first use from a package folder and from plugins."""

    def __init__(self, kind: str, package: str) -> None:
        """Make an empty registry.

        Args:
            kind: what an entry is, for messages ("calibrator").
            package: dotted name of the folder whose modules register entries ("onnxq.calibrators").
        """
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[U], U]:
        """Return a decorator that registers its object as `name`.

        Raises:
            RecipeError: the name is taken by another object.
        """

        def add(entry: U) -> U:
            self.add(name, entry)  # type: ignore[arg-type]
            return entry

        return add

    def add(self, name: str, entry: T) -> None:
        """Register `entry` as `name`; raises RecipeError if the name is taken."""
        if name in self._entries and self._entries[name] is not entry:
            raise RecipeError(f"{self.kind} '{name}' is registered twice; rename one of them")
        self._entries[name] = entry

    def get(self, name: str) -> T:
        """Return the entry called `name`; raises RecipeError with the nearest right spelling."""
        self._discover()
        if name not in self._entries:
            raise RecipeError(f"unknown {self.kind} '{name}'{nearest(name, self._entries)}")
        return self._entries[name]

    def make(self, name: str, options: Mapping[str, Any]) -> Any:
        """Return the entry called `name`, a dataclass, with values for its fields; the others keep their defaults.

        Raises:
            RecipeError: an unknown name or option, with the nearest right spelling, or a value of the wrong type.
        """
        self.check_options(name, options)
        entry: Any = self.get(name)
        if not options:
            return entry()
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(entry).validate_python(dict(options))
        except ValidationError as error:
            first = error.errors()[0]
            refused = first.get("ctx", {}).get("error")
            if isinstance(refused, RecipeError):  # the entry's own check
                raise refused from None
            message = f"{self.kind} '{name}': option '{first['loc'][0]}': {first['msg']}, found {first['input']!r}"
            raise RecipeError(message) from None

    def check_options(self, name: str, options: Iterable[str]) -> None:
        """Raise RecipeError, with the nearest right spelling, for an option that is no field of the entry `name`."""
        entry: Any = self.get(name)
        known = [field.name for field in dataclasses.fields(entry)] if dataclasses.is_dataclass(entry) else []
        for option in options:
            if option not in known:
                hint = nearest(option, known) if known else "; it has no options"
                raise RecipeError(f"{self.kind} '{name}' has no option '{option}'{hint}")

    def names(self) -> list[str]:
        """Return all names, sorted."""
        self._discover()
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        """Return whether `name` is registered."""
        self._discover()
        return name in self._entries

    def items(self) -> Iterator[tuple[str, T]]:
        """Yield (name, entry), sorted by name."""
        for name in self.names():
            yield name, self._entries[name]

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        package = importlib.import_module(self._package)
        for module in pkgutil.walk_packages(package.__path__, prefix=f"{self._package}."):
            if not module.name.rpartition(".")[2].startswith("_"):
                importlib.import_module(module.name)
        load_plugins()
