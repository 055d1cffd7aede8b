"""The zoo: real models with real data, for tests, examples and benchmarks. Not part of the wheel.

    import models
    zoo = models.load("digits")       # fetched on first use, then cached outside the repository
    for batch in zoo.calibration():   # {input name: array}
        ...

A family of models is one module or package in this folder with a tuple ``ENTRIES``; there is no list to edit.
"""

import difflib
import importlib
import pkgutil

from models.entry import Entry, Feeds, Metric, Run, ZooModel
from models.errors import ZooError

__all__ = ["Entry", "Feeds", "Metric", "Run", "ZooError", "ZooModel", "entries", "load", "names"]


def entries() -> dict[str, Entry]:
    """Every model of the zoo by name, in alphabetical order. Fetches nothing."""
    modules = [
        importlib.import_module(f"{__name__}.{found.name}")
        for found in pkgutil.iter_modules(__path__)
        if not found.name.startswith("_")
    ]
    listed: list[Entry] = [entry for module in modules for entry in getattr(module, "ENTRIES", ())]
    return {entry.name: entry for entry in sorted(listed, key=lambda entry: entry.name)}


def names() -> list[str]:
    """The names that ``load`` takes."""
    return list(entries())


def load(name: str) -> ZooModel:
    """The model called ``name``; it and all that its data are made from are fetched on first use.

    Raises:
        ZooError: there is no such model (the message names the nearest), or it cannot be fetched.
    """
    known = entries()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"The zoo has: {', '.join(known)}."
        raise ZooError(f"no model {name!r} in the zoo. {hint}")
    return known[name].load()
