"""sequential: weights quantized in the order in which the model uses them, each for the inputs that it then has.

Codes chosen for a layer change the inputs of the layers behind it. Weight methods with the option `sequential`
therefore get the second moments of inputs as the quantized model computes them: the graph is run over the calibration
data in segments, from the features of one layer to those of the next. Values that later nodes read are kept for every
batch, so that all segments together cost one run; and weights become the values of their codes before the segment
that reads them (Frantar et al. 2022, GPTQ, section 3.3, whose segments are whole blocks). One layer's products of
features are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from onnxq.data.source import Source
from onnxq.graph.constants import moved_tensor
from onnxq.numerics.channels import merge_channels, observe_channels
from onnxq.passes.emit.constants import Chosen, PlannedConstants
from onnxq.progress import Progress, Silent
from onnxq.stages.layerwise.segments import open_segment
from onnxq.types.plan import Plan, TensorPlan
from onnxq.types.statistics import ChannelStatistics, Statistics
from onnxq.weights import make_weight_method

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wave:
    """Weights that are quantized together: once all of `features` are computed, by the node numbered `end` - 1."""

    end: int
    features: tuple[str, ...]
    keys: tuple[str, ...]


def wants_data(plan: Plan) -> bool:
    """Return whether a weight method of the plan runs the calibration data again."""
    return any(_is_sequential(tensor) for tensor in plan.tensors.values())


def choose_in_order(
    model: ir.Model,
    plan: Plan,
    statistics: Statistics,
    source: Source,
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> Mapping[str, Chosen]:
    """Return codes and parameters of the weights whose methods are sequential, by plan key.

    Weights whose inputs are computed inside If, Loop and Scan bodies are not among them.

    Args:
        model: prepared; unchanged.
        plan: of the model.
        statistics: of the model.
        source: the calibration data, read once.
        threads: intra-op threads.
        progress: receives the layers that are done.

    Raises:
        CalibrationError: data that does not fit the model.
        ModelError: the runtime cannot run the model.
    """
    work = model.clone()
    waves = _waves(work, plan)
    chosen: dict[str, Chosen] = {}
    states: list[dict[str, Any]] = [dict(batch.feeds) for batch in source.batches()]
    done = 0
    progress = progress or Silent()
    progress.start(len(waves), "Layers")
    for wave in waves:
        channels: dict[str, ChannelStatistics | None] = {}
        axes = {name: _axis(statistics, name) for name in wave.features}
        run = open_segment(work, done, wave.end, threads)
        for index, state in enumerate(states):
            states[index] = run(state)
            for name, axis in axes.items():
                observed = observe_channels(states[index][name].astype("float32"), axis, products=True)
                channels[name] = merge_channels(channels[name], observed) if name in channels else observed
        done = wave.end
        moments = replace(statistics, tensors=_with_channels(statistics, channels))
        constants = PlannedConstants(plan, _reader(work), moments)
        # All before any is replaced: a weight and its transposed copy are to get the same codes.
        results = {key: constants.codes(key) for key in wave.keys}
        for key, each in results.items():
            _put(work, plan.tensors[key].tensor, constants.values(key, each))
        chosen |= results
        progress.advance(1)
    progress.finish()
    return chosen


def _is_sequential(tensor: TensorPlan) -> bool:
    if not tensor.features_from or tensor.method is None or tensor.scheme.codebook is not None:
        return False
    return bool(getattr(make_weight_method(tensor.method), "sequential", False))


def _waves(model: ir.Model, plan: Plan) -> list[_Wave]:
    """Return the weights by the last node that computes their features, in graph order."""
    computed = {value.name: 0 for value in model.graph.inputs}
    for number, node in enumerate(model.graph):
        computed.update((value.name, number + 1) for value in node.outputs)
    keys: dict[int, list[str]] = {}
    for key, tensor in plan.tensors.items():
        if _is_sequential(tensor) and all(name in computed for name in tensor.features_from):
            keys.setdefault(max(computed[name] for name in tensor.features_from), []).append(key)
    return [
        _Wave(
            end=end,
            features=tuple(sorted({name for key in keys[end] for name in plan.tensors[key].features_from})),
            keys=tuple(keys[end]),
        )
        for end in sorted(keys)
    ]


def _axis(statistics: Statistics, name: str) -> int:
    channels = statistics.tensors[name].channels
    assert channels is not None  # the plan names only tensors whose features were observed
    return channels.axis


def _with_channels(statistics: Statistics, channels: Mapping[str, ChannelStatistics | None]) -> dict[str, Any]:
    return {name: replace(statistics.tensors[name], channels=each) for name, each in channels.items()}


def _reader(model: ir.Model) -> Callable[[str], np.ndarray]:
    values = {value.name: value for value in model.graph.initializers.values()}
    values.update((value.name, value) for node in model.graph for value in node.outputs)

    def read(name: str) -> np.ndarray:
        tensor = moved_tensor(values[name])
        assert tensor is not None
        return tensor.numpy()

    return read


def _put(model: ir.Model, name: str, array: np.ndarray) -> None:
    """Change the values of a constant: an initializer in place, one that nodes compute by a new initializer."""
    import onnx_ir as ir

    initializer = model.graph.initializers.get(name)
    if initializer is not None:
        initializer.const_value = ir.tensor(array, name=name)
        return
    value = next(value for node in model.graph for value in node.outputs if value.name == name)
    other = ir.Value(name=f"{name}/chosen", const_value=ir.tensor(array, name=f"{name}/chosen"))
    model.graph.register_initializer(other)
    ir.convenience.replace_all_uses_with(value, other)
