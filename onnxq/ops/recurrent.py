"""Recurrent operators. Weight layout: W [directions, gates * hidden, input], R [directions, gates * hidden, hidden]."""

from __future__ import annotations

from onnxq.ops import OpFact, facts

for _op, _summary, _outputs in (
    ("LSTM", "long short-term memory", (0, 1, 2)),
    ("GRU", "gated recurrent unit", (0, 1)),
    ("RNN", "simple recurrence", (0, 1)),
):
    facts.add(
        _op,
        OpFact(
            summary=_summary,
            activations=(0,),
            weight=1,
            more_weights=(2,),
            # The two directions share the scale of a row: a scheme has one axis.
            channel_axis=lambda node, rank: 1,
            reduction_axis=lambda node, rank: 2,
            feature_axis=lambda node, rank: rank - 1,
            outputs=_outputs,
        ),
    )
