"""Inspection: what is in a model, before anything is done to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """One graph input or output: dtype in lower case, extents as numbers, names or `?`."""

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What is in a model.

    Attributes:
        ir_version, opsets, producer: as declared.
        inputs, outputs: of the main graph.
        operators: `domain::op_type` -> count, subgraphs and functions included.
        weights: dtype -> (tensors, elements, bytes) of initializers and constants.
        nodes: of the prepared model, the one that is quantized.
        candidates: operator -> nodes that have an integer kernel on `target`.
        kept: reason code -> nodes that stay in float whatever calibration shows.
        warnings: of loading and preparing.
    """

    ir_version: int
    opsets: Mapping[str, int]
    producer: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: Mapping[str, int]
    weights: Mapping[str, tuple[int, int, int]]
    target: str
    nodes: int
    candidates: Mapping[str, int]
    kept: Mapping[str, int]
    warnings: tuple[str, ...] = ()
