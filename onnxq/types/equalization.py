"""Equalization: what a rewrite that makes a model easier to quantize did, or why it did nothing; a part of the plan."""

from __future__ import annotations

from dataclasses import dataclass

from onnxq.types.plain_data import Real


@dataclass(frozen=True, kw_only=True, slots=True)
class Equalization:
    """What one method did at one place of the model.

    Attributes:
        method: with its options, as in a recipe.
        tensor: whose channels were scaled, shifted or rotated.
        nodes: those whose weights took the opposite.
        taken: whether it was done.
        text: what was done and where it went, or why not, in words.
        before, after: expected squared error of the nodes' outputs as the method models it, relative to the mean square
            of their outputs where that is known; 0 where the method has no such model.
    """

    method: str
    tensor: str
    nodes: tuple[str, ...]
    taken: bool
    text: str
    before: Real = 0.0
    after: Real = 0.0
