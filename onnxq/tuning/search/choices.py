"""Ways: what a search may do with a node, each a recipe for the whole model that single nodes can follow.

A way is written as the name of a built-in recipe, the path of one, or `FORMAT[:SCHEME OF WEIGHTS]`, such as
`weight-only:uint4,per-block(32),method=gptq`. What a recipe says of the whole model (calibrator, placement ...) cannot
differ from node to node, and is the searched recipe's own.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxq.errors import RecipeError
from onnxq.files.recipe import read_recipe
from onnxq.types.format import Format
from onnxq.types.recipe import ActivationChoice, Match, Recipe, Rule, WeightChoice

OWN = "as asked"
"""The name of the searched recipe itself among its ways."""
AUTO = "auto"
_AUTO: Mapping[str, tuple[str, ...]] = {
    "speed": ("int8", "int8-dynamic", "int8-weights"),
    "size": ("int8", "int8-weights", "int4", "weight-only:uint4,asymmetric,per-block(32),method=gptq"),
}
_OF_NODES = frozenset({"format", "activations", "weights", "rules"})
# What a recipe of a way may say besides: it is about judging, not about the model that comes out.
_IGNORED = frozenset({"prefer", "guard", "threads"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way to quantize nodes.

    Attributes:
        name: as it was written. recipe: for the whole model, if all nodes go this way.
    """

    name: str
    recipe: Recipe


def open_ways(recipe: Recipe, possible: Callable[[Recipe], object]) -> tuple[Way, ...]:
    """Return the ways that a recipe's `search` names, the recipe itself first.

    Args:
        recipe: with `search`. possible: raises RecipeError for a recipe that the model or the target cannot follow.

    Raises:
        RecipeError: an unknown way, one that says something of the whole model, or one that is not possible; ways that
            `auto` stands for are left out instead.
    """
    own = recipe.model_copy(update={"search": ()})
    ways = [Way(name=OWN, recipe=own)]
    for text in recipe.search:
        names = _AUTO[recipe.prefer] if text == AUTO else (text,)
        for name in names:
            try:
                way = Way(name=name, recipe=_uniform(name, own))
                _check_static(way, ways)
                possible(way.recipe)
            except RecipeError as error:
                if text == AUTO:
                    continue
                raise RecipeError(f"search '{name}': {error}") from None
            if not any(_alike(way.recipe, other.recipe) for other in ways):
                ways.append(way)
    return tuple(ways)


def base_of(recipe: Recipe, ways: Sequence[Way]) -> Recipe:
    """Return the searched recipe with all that single nodes are told taken out, but for what it keeps in float."""
    static = next((way.recipe.format for way in ways if way.recipe.format.static), recipe.format)
    return recipe.model_copy(
        update={
            "search": (),
            "format": static,
            "activations": ActivationChoice(),
            "weights": WeightChoice(),
            "rules": _kept(recipe),
        }
    )


def follow(way: Way, nodes: Mapping[str, str]) -> tuple[Rule, ...]:
    """Return the rules that let nodes (name -> operator) go a way."""
    groups: dict[Rule, list[str]] = {}
    for name, op in nodes.items():
        said = _said(way.recipe, op, name)
        if said is not None:
            groups.setdefault(said, []).append(glob.escape(name))
    return tuple(rule.model_copy(update={"match": Match(name=tuple(names))}) for rule, names in groups.items())


def _uniform(name: str, own: Recipe) -> Recipe:
    given = _read(name)
    parsed = Recipe.parse(given)
    for key in given:
        if key not in _OF_NODES | _IGNORED and getattr(parsed, key) != getattr(own, key):
            raise RecipeError(f"it says `{key}`, which is about the whole model; say that in the recipe to search with")
    parts = {key: getattr(parsed, key) for key in ("format", "activations", "weights")}
    return own.model_copy(update={**parts, "rules": (*parsed.rules, *_kept(own))})


def _read(name: str) -> dict[str, Any]:
    head, _, scheme = name.partition(":")
    if head in set(Format) and head != Format.AUTO:
        return {"format": head} | ({"weights": scheme} if scheme else {})
    return read_recipe(Path(name))


def _kept(recipe: Recipe) -> tuple[Rule, ...]:
    return tuple(rule for rule in recipe.rules if rule.keep is not None)


def _check_static(way: Way, others: Iterable[Way]) -> None:
    fmt = way.recipe.format
    for other in others:
        if fmt.static and other.recipe.format.static and other.recipe.format is not fmt:
            raise RecipeError(
                f"it writes format {fmt}, '{other.name}' {other.recipe.format}; a model holds one of them"
            )


def _alike(one: Recipe, other: Recipe) -> bool:
    return all(getattr(one, key) == getattr(other, key) for key in _OF_NODES)


_ANY = Match(name="*")


def _said(recipe: Recipe, op: str, name: str) -> Rule | None:
    """Return all that a recipe says of one node, as a rule for any node; None where it stays in float."""
    fmt, activations, weights, kept, level = recipe.format, recipe.activations, recipe.weights, False, None
    for rule in recipe.rules:
        if rule.match.covers(op, name):
            kept, fmt, level = rule.keep is not None, rule.format or fmt, rule.accuracy_level or level
            activations, weights = _over(rule.activations, activations), _over(rule.weights, weights)
    if kept:
        return None
    return Rule(match=_ANY, format=fmt, activations=activations, weights=weights, accuracy_level=level)


def _over(later: Any, earlier: Any) -> Any:
    """Return a choice with the parts of a later one put in their place."""
    if later is None:
        return earlier
    said = {key: value for key in type(later).model_fields if (value := getattr(later, key)) is not None}
    if "dtype" in said and "codebook" in type(later).model_fields:
        said.setdefault("codebook", None)
    return earlier.model_copy(update=said)
