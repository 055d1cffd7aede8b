"""Rule: an exception in a recipe, and which nodes it is about."""

from __future__ import annotations

import fnmatch
from typing import Literal

from pydantic import model_validator

from onnxq.types.choices import ActivationChoice, StrictModel, WeightChoice
from onnxq.types.format import Format


def matches(name: str, pattern: str) -> bool:
    """Return whether a node has the name, or matches the pattern, of a rule; one with brackets matches itself too."""
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


class Match(StrictModel):
    """Which nodes a rule is about: operator types, node names or patterns (`*`, `?`, `[..]`), or both.

    `weighted` narrows that down to nodes with a constant weight, or without: attention's products have none.
    """

    op: str | tuple[str, ...] | None = None
    name: str | tuple[str, ...] | None = None
    weighted: bool | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> Match:
        if self.op is None and self.name is None:
            raise ValueError("a match names an op, a name, or both; defaults stand in the recipe itself")
        return self

    @property
    def ops(self) -> tuple[str, ...]:
        """The operator types, () for any."""
        return () if self.op is None else (self.op,) if isinstance(self.op, str) else self.op

    @property
    def names(self) -> tuple[str, ...]:
        """The node names and patterns, () for any."""
        return () if self.name is None else (self.name,) if isinstance(self.name, str) else self.name

    def covers(self, op: str, name: str, *, weighted: bool = True) -> bool:
        """Return whether a node of type `op` called `name`, with a constant weight or without, is meant."""
        if self.weighted is not None and weighted is not self.weighted:
            return False
        return (not self.ops or op in self.ops) and (
            not self.names or any(matches(name, pattern) for pattern in self.names)
        )


class Rule(StrictModel):
    """Later rules win over earlier ones, part by part.

    Attributes:
        match: the nodes meant.
        keep: leaves them alone, and says why: "float" as requested; "unfused", "error", "slower" and
            "kernel-fault" since a guard found that they do not run on integers, spoil an output, take longer, or that
            their kernel computes something else than the graph says.
        format: write them in another format than the recipe's.
        activations, weights: parts of the schemes to change for them.
        accuracy_level: of MatMulNBits, as in the recipe.
        why: "kernel-fault" where a guard gave them this form, since the kernel of the one before computes something
            else than the graph says.
        because: the figures, of `keep` or `why`.
        optional: allow that the rule matches nothing, for recipes that serve many models.
    """

    match: Match
    keep: Literal["float", "unfused", "error", "slower", "kernel-fault"] | None = None
    because: str | None = None
    format: Format | None = None
    activations: ActivationChoice | None = None
    weights: WeightChoice | None = None
    accuracy_level: Literal[1, 4] | None = None
    why: Literal["kernel-fault"] | None = None
    optional: bool = False

    @model_validator(mode="after")
    def _says_something(self) -> Rule:
        if self.format is Format.AUTO:
            raise ValueError("a rule names a format; `auto` is for the whole model")
        parts = (self.format, self.activations, self.weights, self.accuracy_level)
        says = [part for part in parts if part is not None]
        if self.keep is None and not says:
            raise ValueError("a rule says `keep: float`, `format`, `activations`, `weights` or `accuracy_level`")
        if self.keep is not None and (says or self.why):
            raise ValueError("a rule cannot keep nodes in float and give them a format or scheme")
        return self

    @property
    def from_guard(self) -> bool:
        """Whether a guard added the rule, not the user."""
        return self.why is not None or self.keep not in (None, "float")
