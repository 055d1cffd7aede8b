"""Weights that have one scale where the recipe wants one a channel, and where they could have those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from onnxq.errors import first_few
from onnxq.ops import op_key
from onnxq.types.format import Format
from onnxq.types.scheme import PerChannel

if TYPE_CHECKING:
    from onnxq.stages.plan.entries import Candidate
    from onnxq.targets import Target


def no_channels(entry: Candidate) -> str:
    """Return why the kernel of a node takes no scale for each channel of its weight."""
    return f"{entry.request.format} gives {entry.row.kernel} no scale a channel for a stack of matrices"


def without_channels(nodes: Mapping[str, Candidate], target: Target) -> list[str]:
    """Return a warning about the nodes whose weights have one scale where one a channel was wanted, [] without any.

    Args:
        nodes: the nodes, by name. target: whose rows say which format takes more.
    """
    if not nodes:
        return []
    entry = next(iter(nodes.values()))
    count = "1 weight has" if len(nodes) == 1 else f"{len(nodes)} weights have"
    text = f"{count} one scale instead of one a channel ({first_few(nodes)}): {no_channels(entry)}"
    return [f"{text}; format {Format.QOPERATOR} does" if _written(entry, target) else text]


def _written(entry: Candidate, target: Target) -> bool:
    """Return whether the integer operator, written out, takes a scale for each channel of such a weight."""
    rows = target.rows_for(op_key(entry.node), Format.QOPERATOR, portable=entry.request.portable)
    return any(
        PerChannel in row.granularities
        and row.largest_rank_per_channel is None
        and entry.request.weights.dtype in row.weights
        and entry.request.activations.dtype in row.activations
        for row in rows
    )
