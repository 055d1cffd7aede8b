"""Equalizers of the channels between two layers, by the ranges of the weights on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxq.equalizers import RangeEqualizer
from onnxq.graph.names import name_of
from onnxq.graph.walk import top_level
from onnxq.passes.equalize.rescale import Rescaling
from onnxq.stages.equalize.fold import Folded, fold, own_constant
from onnxq.types.equalization import Equalization

if TYPE_CHECKING:
    import onnx_ir as ir

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

_LAYERS = frozenset({"Conv", "Gemm", "MatMul"})
_SWEEPS, _STILL = 40, 1e-3
_WIDEST = 2.0**12


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayerPair:
    """Channels that one layer computes and the next one reads, with nothing but scale-keeping operators between.

    Attributes:
        name: of the second layer.
        tensor: its input.
        channels: how many.
        first: weights that compute the channels, by name, and for each element of their factor's shape the channel.
        others: further constants that take the same scale (biases).
        weight: name of the second layer's weight.
        second: for each element of its input axis the channel.
        into: the first layer in words.
    """

    name: str
    tensor: str
    channels: int
    first: Mapping[str, Places]
    others: Mapping[str, Places]
    weight: str
    second: Places
    into: str

    def on_first(self, values: Floats, name: str) -> Floats:
        """Return numbers of the channels, shaped to broadcast against a constant of the first layer."""
        return np.asarray(values[{**self.first, **self.others}[name]])

    def on_second(self, values: Floats) -> Floats:
        """Return numbers of the channels, shaped to broadcast against the second layer's weight."""
        return np.asarray(values[self.second])


@dataclass(frozen=True, kw_only=True, slots=True)
class UnpairedLayer:
    """A layer without a layer before it that could take its scales, and why."""

    name: str
    tensor: str
    why: str


def pairs(model: ir.Model) -> tuple[LayerPair | UnpairedLayer, ...]:
    """Return every layer of the main graph, with the layer before it where scales pass between the two."""
    return tuple(_pair(name, node) for name, node in top_level(model) if node.op_type in _LAYERS and not node.domain)


def _pair(name: str, node: ir.Node) -> LayerPair | UnpairedLayer:
    value, weight = node.inputs[0], node.inputs[1]
    tensor = name_of(value)
    axis = 1 if node.op_type == "Conv" else -1
    channels = None if value is None or value.shape is None else value.shape[axis]
    if value is None or value.shape is None or not isinstance(channels, int):
        return UnpairedLayer(name=name, tensor=tensor, why="the number of its channels is not known")
    why = own_constant(weight, [node])
    if why is not None or weight is None:
        return UnpairedLayer(name=name, tensor=tensor, why=why or "it has no weight")
    second = _reading(node, channels)
    if second is None:
        return UnpairedLayer(
            name=name, tensor=tensor, why=f"the weight of '{name}' is split into groups, or is not a matrix"
        )
    shape = [1] * len(value.shape)
    shape[axis] = -1
    # Channel numbers in place of scales show where each channel is computed.
    folded = fold(value, np.arange(1.0, channels + 1).reshape(shape), [node])
    if not isinstance(folded, Folded):
        return UnpairedLayer(name=name, tensor=tensor, why=folded)
    places = {each: factor.round().astype(np.intp) - 1 for each, factor in folded.factors.items()}
    initializers = _initializers(node)
    weights = {each: place for each, place in places.items() if len(initializers[each].shape or ()) > 1}
    if not weights:
        return UnpairedLayer(name=name, tensor=tensor, why=f"no weights compute its input, but {folded.into}")
    return LayerPair(
        name=name,
        tensor=tensor,
        channels=channels,
        first=weights,
        others={each: place for each, place in places.items() if each not in weights},
        weight=weight.name or "",
        second=second,
        into=folded.into,
    )


def _initializers(node: ir.Node) -> Mapping[str, ir.Value]:
    """Return the initializers of the graph that a node is in."""
    import onnx_ir as ir

    assert isinstance(node.graph, ir.Graph)
    return node.graph.initializers


def _reading(node: ir.Node, channels: int) -> Places | None:
    """Return for each element of the weight's input axis the channel that it multiplies; None if not so simple."""
    weight = node.inputs[1]
    if weight is None or weight.shape is None or not weight.shape.is_static():
        return None
    shape = tuple(weight.shape.numpy())
    every = np.arange(channels)
    if node.op_type == "Conv":
        behind = [1] * (len(shape) - 2)
        group = node.attributes.get_int("group", 1)
        if group == 1:
            return every.reshape(1, -1, *behind)
        if group == channels and shape[1] == 1:
            return np.repeat(every, shape[0] // channels).reshape(-1, 1, *behind)
        return None
    transposed_input: int = node.attributes.get_int("transA", 0)
    transposed: int = node.attributes.get_int("transB", 0)
    if len(shape) != 2 or transposed_input:
        return None
    return every.reshape([1, -1] if transposed else [-1, 1])


def level_ranges(model: ir.Model, equalizer: RangeEqualizer, *, method: str) -> tuple[Rescaling, list[Equalization]]:
    """Scale the channels of all pairs in turn, repeatedly, until the scales stop changing."""
    layers = pairs(model)
    able = [pair for pair in layers if isinstance(pair, LayerPair)]
    arrays: dict[str, Floats] = {}
    for each in dict.fromkeys(name for pair in able for name in (*pair.first, pair.weight)):
        tensor = model.graph.initializers[each].const_value
        assert tensor is not None
        arrays[each] = np.abs(tensor.numpy().astype(np.float64))
    total = [np.ones(pair.channels) for pair in able]
    for _ in range(_SWEEPS):
        moved = 0.0
        for number, pair in enumerate(able):
            first = np.max([_peaks(arrays[each], place, pair) for each, place in pair.first.items()], axis=0)
            scale = equalizer(first, _peaks(arrays[pair.weight], pair.second, pair))
            wanted = np.clip(total[number] * scale, 1 / _WIDEST, _WIDEST)
            scale, total[number] = wanted / total[number], wanted
            for each in pair.first:
                arrays[each] /= pair.on_first(scale, each)
            arrays[pair.weight] *= pair.on_second(scale)
            moved = max(moved, float(np.abs(np.log(scale)).max(initial=0.0)))
        if moved < _STILL:
            break
    factors: dict[str, Floats] = {}
    for pair, scale in zip(able, total, strict=True):
        for each in (*pair.first, *pair.others):
            factors[each] = factors.get(each, 1.0) / pair.on_first(scale, each)
        factors[pair.weight] = factors.get(pair.weight, 1.0) * pair.on_second(scale)
    scales = {pair.name: scale for pair, scale in zip(able, total, strict=True)}
    return Rescaling(factors=factors), [_entry(pair, method, scales.get(pair.name)) for pair in layers]


def _peaks(array: Floats, place: Places, pair: LayerPair) -> Floats:
    """Return the largest value of each channel."""
    peaks = np.zeros(pair.channels)
    np.maximum.at(peaks, np.broadcast_to(place, array.shape).ravel(), array.ravel())
    return peaks


def _entry(pair: LayerPair | UnpairedLayer, method: str, scale: Floats | None) -> Equalization:
    if isinstance(pair, UnpairedLayer) or scale is None:
        why = pair.why if isinstance(pair, UnpairedLayer) else ""
        return Equalization(method=method, tensor=pair.tensor, nodes=(pair.name,), taken=False, text=why)
    text = f"channels divided by {scale.min():.3g} .. {scale.max():.3g}, folded into {pair.into}"
    return Equalization(method=method, tensor=pair.tensor, nodes=(pair.name,), taken=True, text=text)
