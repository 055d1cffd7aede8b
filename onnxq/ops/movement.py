"""Operators that move, select or repeat values without computing: their output keeps the input's parameters."""

from __future__ import annotations

from onnxq.ops import OpFact, facts

for _op, _summary in {
    "DepthToSpace": "channels to space",
    "Expand": "broadcast to a shape",
    "Flatten": "reshape to two axes",
    "Identity": "the same value",
    "Pad": "border of constants or of the input's own values",
    "Reshape": "another shape",
    "Slice": "cut out",
    "SpaceToDepth": "space to channels",
    "Squeeze": "drop axes of extent 1",
    "Tile": "repeat",
    "Transpose": "permute axes",
    "Unsqueeze": "insert axes of extent 1",
}.items():
    facts.add(_op, OpFact(summary=_summary, activations=(0,), rearranges=True))

facts.add(
    "Gather",
    OpFact(
        summary="select by index",
        activations=(0,),
        weight=0,  # a constant table: an embedding, one row for each index
        channel_axis=lambda node, rank: node.attributes.get_int("axis", 0) % max(rank, 1),
        reduction_axis=lambda node, rank: rank - 1,
        rearranges=True,
    ),
)
facts.add("Split", OpFact(summary="cut into parts", activations=(0,), outputs=None, rearranges=True))
facts.add("Resize", OpFact(summary="resample", activations=(0,), rearranges=True))
facts.add("Concat", OpFact(summary="join along an axis", activations=None))
