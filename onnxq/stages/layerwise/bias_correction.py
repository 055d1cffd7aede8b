"""Bias correction: the average shift that quantization causes is subtracted from a bias.

Rounding errors of weights do not cancel where inputs have a mean: channel c of a layer's output moves by
E[((w' - w)^T x)_c]. A correction of the layer's bias by as much costs nothing at run time (Nagel, van Baalen,
Blankevoort and Welling 2019, Data-Free Quantization through Weight Equalization and Bias Correction, section 4.2):

- analytic: from the mean of the layer's inputs in the float model and the weights' errors alone; the padding of a
  convolution is ignored;
- empirical: the difference between the means of the layer's output in the float model and in the one that rounds
  (`simulate`), layer by layer, each behind layers already corrected. It includes all errors, those of activations too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from onnxq.data.source import Source
from onnxq.graph.constants import constant_array, moved_tensor
from onnxq.graph.walk import top_level
from onnxq.ops import facts, op_key
from onnxq.passes.emit.constants import Chosen
from onnxq.runtime.taps import Taps
from onnxq.stages.layerwise.segments import open_segment
from onnxq.stages.rewrite import simulate
from onnxq.types.plan import Action, Plan, Role
from onnxq.types.statistics import Statistics

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    Floats = np.ndarray

_BATCHES = 32  # means of a few batches are exact enough


@dataclass(frozen=True, kw_only=True, slots=True)
class _BiasedLayer:
    """A node with quantized weights: its input, its output behind the bias, its bias, and its channel axis."""

    node: str
    source: str
    output: str
    bias: str
    axis: int


def bias_corrections(
    model: ir.Model,
    plan: Plan,
    source: Source,
    *,
    empirical: bool,
    statistics: Statistics | None = None,
    chosen: Mapping[str, Chosen] | None = None,
    threads: int = 1,
) -> dict[str, tuple[float, ...]]:
    """Return what to add to biases, by name, to compensate the average shift of a plan's rounding.

    Args:
        model: prepared.
        plan: of the model, without corrections.
        source: calibration data, of which the first batches are read.
        empirical: see above; False: analytic.
        statistics: as for `rewrite`.
        chosen: as for `rewrite`.
        threads: intra-op threads.
    """
    layers = list(_layers(model, plan))
    if not layers:
        return {}
    feeds = [batch.feeds for _, batch in takewhile(lambda each: each[0] < _BATCHES, enumerate(source.batches()))]
    rounded = simulate(model, plan, statistics=statistics, chosen=chosen)
    measure = _empirical if empirical else _analytic
    shifts = measure(model, rounded, layers, feeds, threads)
    return {layer.bias: tuple(shifts[layer.node].tolist()) for layer in layers}


def _layers(model: ir.Model, plan: Plan) -> Iterator[_BiasedLayer]:
    """Yield the layers with a bias of their own: an input of the node, or a constant that an Add behind it adds."""
    nodes = dict(top_level(model))
    for decision in plan.decisions:
        node = nodes.get(decision.node)
        if decision.action is not Action.QUANTIZE or node is None or op_key(node) not in facts:
            continue
        fact, value = facts.get(op_key(node)), node.outputs[0]
        weight = decision.inputs.get(-1 if fact.weight is None else fact.weight)
        if weight is None or plan.tensors[weight].role is not Role.WEIGHT or not fact.activations:
            continue
        bias = node.inputs[fact.bias] if fact.bias is not None and len(node.inputs) > fact.bias else None
        if bias is None and node.op_type == "MatMul":
            (use, *more) = value.uses() or (None,)
            if use is None or more or use.node.op_type != "Add" or use.node.graph is not node.graph:
                continue
            bias, value = use.node.inputs[1 - use.idx], use.node.outputs[0]
        source = node.inputs[fact.activations[0]]
        if bias is None or source is None or not bias.is_initializer() or bias.is_graph_input():
            continue
        axis = 1 if node.op_type.startswith("Conv") else -1
        extent = None if value.shape is None else value.shape[axis]
        array = constant_array(bias)
        if (
            array is None
            or array.size != extent
            or len(bias.uses()) != 1
            or not (source.name and value.name and bias.name)
        ):
            continue
        yield _BiasedLayer(node=decision.node, source=source.name, output=value.name, bias=bias.name, axis=axis)


def _empirical(
    model: ir.Model, rounded: ir.Model, layers: list[_BiasedLayer], feeds: Sequence[Mapping[str, Floats]], threads: int
) -> dict[str, Floats]:
    expected = _means(model, {layer.output: layer.axis for layer in layers}, feeds, threads)
    ends = {value.name: number + 1 for number, node in enumerate(rounded.graph) for value in node.outputs}
    states = [dict(each) for each in feeds]
    shifts: dict[str, Floats] = {}
    done = 0
    for layer in sorted(layers, key=lambda each: ends[each.output]):
        run = open_segment(rounded, done, ends[layer.output], threads)
        states, done = [run(state) for state in states], ends[layer.output]
        arrays = [state[layer.output] for state in states]
        shift = expected[layer.output] - _mean(arrays, layer.axis)
        shifts[layer.node] = shift
        for state, array in zip(states, arrays, strict=True):
            wanted = [1] * array.ndim
            wanted[layer.axis] = -1
            state[layer.output] = (array + shift.reshape(wanted)).astype(array.dtype)
    return shifts


def _analytic(
    model: ir.Model, rounded: ir.Model, layers: list[_BiasedLayer], feeds: Sequence[Mapping[str, Floats]], threads: int
) -> dict[str, Floats]:
    before, after = dict(top_level(model)), dict(top_level(rounded))
    axes = {}
    for layer in layers:
        node = before[layer.node]
        feature = facts.get(op_key(node)).feature_axis
        value = next(value for value in node.inputs if value is not None and value.name == layer.source)
        assert feature is not None
        axes[layer.source] = feature(node, len(value.shape or ()))
    means = _means(model, axes, feeds, threads)
    return {layer.node: _shift(before[layer.node], after[layer.node], means[layer.source]) for layer in layers}


def _shift(before: ir.Node, after: ir.Node, mean: Floats) -> Floats:
    """Return E[(w - w')^T x] of each output channel."""
    import numpy as np

    fact = facts.get(op_key(before))
    assert fact.weight is not None
    assert fact.reduction_axis is not None
    tensors = [moved_tensor(node.inputs[fact.weight]) for node in (before, after)]
    weight, rounded = (np.zeros(0) if each is None else each.numpy().astype(np.float64) for each in tensors)
    error = np.moveaxis(weight - rounded, fact.reduction_axis(before, weight.ndim), 0)
    group = before.attributes.get_int("group", 1)
    if before.op_type == "Conv":  # [inputs of a group, outputs, *kernel], outputs group by group
        error = error.reshape(*error.shape[:2], -1).sum(axis=2)
        each = mean.reshape(group, -1)
        parts = np.split(error, group, axis=1)
        return np.concatenate([each[number] @ part for number, part in enumerate(parts)])
    if before.op_type == "ConvTranspose":  # [inputs, outputs of a group, *kernel]; a stride leaves its share of taps
        stride = int(np.prod(before.attributes.get_ints("strides", ())))
        error = error.reshape(*error.shape[:2], -1).sum(axis=2) / max(stride, 1)
        parts = np.split(mean[:, None] * error, group, axis=0)
        return np.concatenate([part.sum(axis=0) for part in parts])
    return np.asarray(before.attributes.get_float("alpha", 1.0) * (mean @ error))


def _means(
    model: ir.Model, axes: Mapping[str, int], feeds: Sequence[Mapping[str, Floats]], threads: int
) -> dict[str, Floats]:
    """Return the mean of each tensor for each index of its axis."""
    import numpy as np

    taps = Taps(model, axes, threads=threads)
    means: dict[str, list[tuple[Floats, int]]] = {name: [] for name in axes}
    for each in feeds:
        for name, arrays in taps.run(each).items():
            means[name] += [(_mean([array], axes[name]), array.size) for array in arrays]
    return {
        name: np.sum([mean * size for mean, size in each], axis=0) / sum(size for _, size in each)
        for name, each in means.items()
    }


def _mean(arrays: list[Floats], axis: int) -> Floats:
    import numpy as np

    totals = []
    for array in arrays:
        others = tuple(place for place in range(array.ndim) if place != axis % array.ndim)
        totals.append((array.sum(axis=others, dtype=np.float64), array.size // array.shape[axis]))
    return np.asarray(sum(total for total, _ in totals) / sum(count for _, count in totals))
