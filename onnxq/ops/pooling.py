"""Pooling. A maximum is one of its inputs, so it keeps their parameters; an average does not."""

from __future__ import annotations

from onnxq.ops import OpFact, facts

facts.add("MaxPool", OpFact(summary="maximum of a window", activations=(0,), rearranges=True))
facts.add("GlobalMaxPool", OpFact(summary="maximum of each channel", activations=(0,), rearranges=True))
facts.add("AveragePool", OpFact(summary="mean of a window", activations=(0,)))
facts.add("GlobalAveragePool", OpFact(summary="mean of each channel", activations=(0,)))
facts.add("ReduceMean", OpFact(summary="mean along axes", activations=(0,)))
facts.add("ReduceMax", OpFact(summary="maximum along axes", activations=(0,), rearranges=True))
