"""Which features of an activation are left out of its codes: those in which calibration saw large values.

In large language models a few features of the hidden state, the same for all tokens, reach 20 to 60 times what the
others do; under one scale a row the others would round to nothing. LLM.int8() (Dettmers, Lewis, Belkada and
Zettlemoyer 2022, section 3.2) finds the features with a value of magnitude 6 and more while the model runs, multiplies
them in float, and adds the two products. Here they are chosen once, from what calibration saw: the plan names them.
Where many features reach the threshold none is an outlier, and the scale of a row suits them all.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxq.graph.constants import moved_tensor
from onnxq.graph.names import name_of
from onnxq.stages.plan.entries import Candidate
from onnxq.types.plan import FloatFeatures
from onnxq.types.statistics import Statistics

FEATURES = "features-in-float"
"""Code of the reason of integer products of which some features stay in float."""

_MOST = 1 / 8  # of the features: the paper finds outliers in less than one of a hundred
_FLOAT = 4  # bytes of a weight


@dataclass(frozen=True, kw_only=True, slots=True)
class Outliers:
    """The features of what a product reads that stay in float, None where there are none, and why these."""

    features: FloatFeatures | None
    text: str


def outliers(entry: Candidate, statistics: Statistics) -> Outliers | None:
    """Return the features in which calibration saw as large a magnitude as the recipe says, None if it says nothing."""
    threshold = entry.request.activations.outliers
    if not entry.request.splits or threshold is None or not entry.activations or not entry.weights:
        return None
    value = entry.node.inputs[entry.activations[0]]
    observed = statistics.tensors.get(name_of(value))
    channels = None if observed is None else observed.channels
    if channels is None or not channels.count.any():
        return Outliers(features=None, text="no feature was observed, none stays in float")
    import numpy as np

    reached = np.maximum(np.abs(channels.minimum), np.abs(channels.maximum))
    features = FloatFeatures(indices=tuple(np.flatnonzero(reached >= threshold).tolist()), count=reached.size)
    text = (
        f"{len(features.indices)} of {features.count} features reached {threshold:g}, the largest {reached.max():.3g}"
    )
    if len(features.indices) > _MOST * features.count:
        return Outliers(features=None, text=f"{text}: so many do not stand out, none stays in float")
    return Outliers(features=features if features.indices else None, text=f"{text}; these stay in float")


def share_in_float(entry: Candidate, features: FloatFeatures) -> str:
    """Return what to say of a product with these features in float: how many, and the bytes of their weights."""
    tensor = moved_tensor(entry.node.inputs[entry.weights[0]])
    assert tensor is not None
    size = tensor.size // features.count * len(features.indices) * _FLOAT
    share = f"{len(features.indices)} of {features.count} features"
    return f"; {share} are multiplied in float, {size / 1e3:.3g} kB of weights"
