"""Choices: the ways that a node can go in a search, each a recipe for the whole model that single nodes can follow.

A choice is written as the name of a built-in recipe, the path of one, or `FORMAT[:SCHEME OF WEIGHTS]`, such as
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
from onnxq.types.choices import ActivationChoice, WeightChoice
from onnxq.types.format import Format
from onnxq.types.recipe import Recipe
from onnxq.types.rule import Match, Rule

OWN = "as asked"
"""The name of the searched recipe itself among its choices."""
AUTO = "auto"
_AUTO: Mapping[str, tuple[str, ...]] = {
    "speed": ("int8", "int8-dynamic", "int8-weights"),
    "size": ("int8", "int8-weights", "int4", "weight-only:uint4,asymmetric,per-block(32),method=gptq"),
}
_OF_NODES = frozenset({"format", "activations", "weights", "rules"})
# What the recipe of a choice may say besides: it is about judging, not about the model that comes out.
_IGNORED = frozenset({"prefer", "guard", "threads"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One way to quantize nodes.

    Attributes:
        name: as it was written.
        recipe: for the whole model, if all nodes go this way.
    """

    name: str
    recipe: Recipe


def open_choices(recipe: Recipe, possible: Callable[[Recipe], object]) -> tuple[Choice, ...]:
    """Return the choices that a recipe's `search` names, the recipe itself first.

    Args:
        recipe: with `search`.
        possible: raises RecipeError for a recipe that the model or the target cannot follow.

    Raises:
        RecipeError: an unknown choice, one that says something of the whole model, or one that is not possible; choices
            that `auto` represents are left out instead.
    """
    own = recipe.model_copy(update={"search": ()})
    choices = [Choice(name=OWN, recipe=own)]
    for text in recipe.search:
        names = _AUTO[recipe.prefer] if text == AUTO else (text,)
        for name in names:
            try:
                choice = Choice(name=name, recipe=_uniform(name, own))
                _check_static(choice, choices)
                possible(choice.recipe)
            except RecipeError as error:
                if text == AUTO:
                    continue
                raise RecipeError(f"search '{name}': {error}") from None
            if not any(_alike(choice.recipe, other.recipe) for other in choices):
                choices.append(choice)
    return tuple(choices)


def base_recipe(recipe: Recipe, choices: Sequence[Choice]) -> Recipe:
    """Return the searched recipe without all that it says of single nodes, except for what it keeps in float."""
    static = next((each.recipe.format for each in choices if each.recipe.format.static), recipe.format)
    return recipe.model_copy(
        update={
            "search": (),
            "format": static,
            "activations": ActivationChoice(),
            "weights": WeightChoice(),
            "rules": _kept(recipe),
        }
    )


def rules_for(choice: Choice, nodes: Mapping[str, str]) -> tuple[Rule, ...]:
    """Return the rules that let nodes (name -> operator) go a way."""
    groups: dict[Rule, list[str]] = {}
    for name, op in nodes.items():
        rule = _rule_of(choice.recipe, op, name)
        if rule is not None:
            groups.setdefault(rule, []).append(glob.escape(name))
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


def _check_static(choice: Choice, others: Iterable[Choice]) -> None:
    fmt = choice.recipe.format
    for other in others:
        if fmt.static and other.recipe.format.static and other.recipe.format is not fmt:
            raise RecipeError(
                f"it writes format {fmt}, '{other.name}' {other.recipe.format}; a model holds one of them"
            )


def _alike(one: Recipe, other: Recipe) -> bool:
    return all(getattr(one, key) == getattr(other, key) for key in _OF_NODES)


_ANY = Match(name="*")


def _rule_of(recipe: Recipe, op: str, name: str) -> Rule | None:
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
    """Return options with the parts of later ones put in their place."""
    if later is None:
        return earlier
    said = {key: value for key in type(later).model_fields if (value := getattr(later, key)) is not None}
    if "dtype" in said and "codebook" in type(later).model_fields:
        said.setdefault("codebook", None)
    return earlier.model_copy(update=said)
