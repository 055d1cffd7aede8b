"""sequential: weights quantized in the order in which the model uses them, each by the inputs that it then gets.

Codes chosen for a layer change what the layers behind it read. Weight methods with the option `sequential` therefore
get the second moments of inputs as the quantized model computes them: the graph is run over the calibration data in
stretches, from the features of one layer to those of the next; what nodes further on will read is kept for every batch,
so that all stretches together cost one run; and weights turn into the values of their codes before the stretch that
reads them (Frantar et al. 2022, GPTQ, section 3.3, whose stretches are whole blocks). One layer's products of features
are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from onnxq.data.source import Source
from onnxq.graph.constants import moved_tensor
from onnxq.numerics.channels import merge_channels, observe_channels
from onnxq.passes.emit.constants import Chosen, Constants
from onnxq.progress import Progress, Silent
from onnxq.stages.layerwise.segments import stretch
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
    """Tell whether a weight method of the plan runs the calibration data again."""
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
        model: prepared; left as it is. plan, statistics: made for it. source: the calibration data, read once.
        threads: intra-op threads. progress: told what is going on.

    Raises:
        CalibrationError: data that does not fit the model. ModelError: the runtime cannot run the model.
    """
    work = model.clone()
    waves = _waves(work, plan)
    chosen: dict[str, Chosen] = {}
    states: list[dict[str, Any]] = [dict(batch.feeds) for batch in source.batches()]
    done = 0
    told = progress or Silent()
    told.start(len(waves), "Layers")
    for wave in waves:
        seen: dict[str, ChannelStatistics | None] = {}
        axes = {name: _axis(statistics, name) for name in wave.features}
        run = stretch(work, done, wave.end, threads)
        for index, state in enumerate(states):
            states[index] = run(state)
            for name, axis in axes.items():
                found = observe_channels(states[index][name].astype("float32"), axis, products=True)
                seen[name] = merge_channels(seen[name], found) if name in seen else found
        done = wave.end
        moments = replace(statistics, tensors=_with_channels(statistics, seen))
        constants = Constants(plan, _reader(work), moments)
        # All before any is put in place: a weight and its transposed copy are to get the same codes.
        found_now = {key: constants.codes(key) for key in wave.keys}
        for key, each in found_now.items():
            _put(work, plan.tensors[key].tensor, constants.values(key, each))
        chosen |= found_now
        told.advance(1)
    told.finish()
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


def _with_channels(statistics: Statistics, seen: Mapping[str, ChannelStatistics | None]) -> dict[str, Any]:
    return {name: replace(statistics.tensors[name], channels=channels) for name, channels in seen.items()}


def _reader(model: ir.Model) -> Callable[[str], np.ndarray]:
    values = {value.name: value for value in model.graph.initializers.values()}
    values.update((value.name, value) for node in model.graph for value in node.outputs)

    def read(name: str) -> np.ndarray:
        tensor = moved_tensor(values[name])
        assert tensor is not None
        return tensor.numpy()

    return read


def _put(model: ir.Model, name: str, array: np.ndarray) -> None:
    """Give a constant other values: an initializer in place, one that nodes compute by a new initializer."""
    import onnx_ir as ir

    held = model.graph.initializers.get(name)
    if held is not None:
        held.const_value = ir.tensor(array, name=name)
        return
    value = next(value for node in model.graph for value in node.outputs if value.name == name)
    other = ir.Value(name=f"{name}/chosen", const_value=ir.tensor(array, name=f"{name}/chosen"))
    model.graph.register_initializer(other)
    ir.convenience.replace_all_uses_with(value, other)
