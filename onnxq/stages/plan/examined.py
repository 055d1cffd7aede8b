"""Examined: what facts alone say of every node of a model. Found once for a recipe and a target, and handed on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from onnxq.errors import RecipeError
from onnxq.graph.names import name_of
from onnxq.ops import known_operators
from onnxq.stages.plan.candidates import examine_nodes
from onnxq.stages.plan.entries import Candidate, FloatNode
from onnxq.stages.plan.kernel_choice import NO_SCHEME
from onnxq.stages.plan.rules import check_rules
from onnxq.stages.plan.weight_inputs import Features, WeightInputs
from onnxq.targets import Target
from onnxq.types.format import Format
from onnxq.types.recipe import Recipe
from onnxq.types.rule import Rule

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True, eq=False)
class Examined:
    """What could run quantized in a model, and what stays in float whatever calibration says.

    Attributes:
        model: prepared. recipe, target: what is wanted, and where it runs.
        entries: every node, subgraphs included, in graph order.
    """

    model: ir.Model
    recipe: Recipe
    target: Target
    entries: tuple[Candidate | FloatNode, ...]

    @property
    def candidates(self) -> Iterator[Candidate]:
        """The nodes that could run quantized."""
        return (entry for entry in self.entries if isinstance(entry, Candidate))

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What to say about the recipe's rules.

        Raises:
            RecipeError: a rule names an operator or node that does not exist, or no node can have the schemes wanted.
        """
        warnings = check_rules(self.recipe, [(entry.op, entry.name) for entry in self.entries], known_operators())
        check_possible(self)
        return warnings

    def check(self) -> None:
        """Raise RecipeError where the recipe cannot be followed; see `warnings`."""
        _ = self.warnings

    @cached_property
    def weight_inputs(self) -> WeightInputs:
        """What the weights are multiplied with."""
        return WeightInputs(self.entries)

    @cached_property
    def features(self) -> Mapping[str, Features]:
        """What weight methods need of single features of tensors, by name; {} where they need nothing."""
        return self.weight_inputs.features

    @cached_property
    def observed(self) -> frozenset[str]:
        """Names of the tensors whose statistics a plan may need: calibration observes these and no others.

        Raises:
            RecipeError: as for `warnings`.
        """
        self.check()
        names = set(self.features)
        for entry in self.entries:
            if isinstance(entry, Candidate) and entry.request.format.static:
                names.update(name_of(entry.node.inputs[slot]) for slot in entry.activations)
                names.update(name_of(entry.node.outputs[slot]) for slot in entry.fact.output_slots(entry.node))
            elif isinstance(entry, FloatNode) and entry.clamp:
                names.add(name_of(entry.node.outputs[0]))
        return frozenset(names)


def examine(model: ir.Model, recipe: Recipe, target: Target) -> Examined:
    """Return what facts alone say of every node of a prepared model."""
    return Examined(model=model, recipe=recipe, target=target, entries=tuple(examine_nodes(model, recipe, target)))


def check_possible(examined: Examined) -> None:
    """Refuse schemes that no node can have: the recipe's, and those of each rule that must match.

    Raises:
        RecipeError: there are such; names a node and what would do.
    """
    parts: list[tuple[str, int | None, Recipe | Rule]] = [("the recipe", None, examined.recipe)]
    parts += [(f"rule {index}", index, rule) for index, rule in enumerate(examined.recipe.rules) if not rule.optional]
    for who, index, part in parts:
        entries = [entry for entry in examined.entries if entry.request is not None and entry.request.rule == index]
        refused = [entry for entry in entries if isinstance(entry, FloatNode) and _is_about_scheme(entry)]
        if refused and _sets_scheme(part) and not any(isinstance(entry, Candidate) for entry in entries):
            raise RecipeError(f"no node can have what {who} wants: '{refused[0].name}': {refused[0].reason.text}")


def _is_about_scheme(entry: FloatNode) -> bool:
    """Return whether a node is kept because of types, granularities or, of weights alone, their blocks."""
    weight_only = entry.request is not None and entry.request.format is Format.WEIGHT_ONLY
    return entry.reason.code in ({NO_SCHEME, "condition"} if weight_only else {NO_SCHEME})


def _sets_scheme(part: Recipe | Rule) -> bool:
    choices = [choice for choice in (part.activations, part.weights) if choice is not None]
    return any(choice.model_fields_set - {"method"} for choice in choices)
